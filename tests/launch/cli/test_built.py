"""What is built is what hydra would instantiate, at every depth."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from conf.own_code import with_own_code
from launch.cli.built import built
from tests.composing import composed

PROGRAMS = [
    ("train", ["experiment=quickstart"]),
    ("train", ["experiment=calculator", "recipe=dapo", "learner.lora={rank: 2}"]),
    ("train", ["experiment=smollm2_mixed", "+rollout.engine.vllm.a={1: [2, {3: null}]}"]),
    ("evaluate", ["experiment=quickstart_engine"]),
    ("compare", ["comparison=pays"]),
    ("simulate", []),
]


@dataclass
class Room:
    size: float = 1.0
    door: Any = None
    doors: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size must be positive")


@pytest.mark.parametrize(("program", "overrides"), PROGRAMS)
def test_as_hydra_instantiates(program, overrides):
    config = with_own_code(composed(program, "run_dir=runs/a", *overrides))
    ours, theirs = built(config), instantiate(config, _convert_="object")
    assert type(ours) is type(theirs)
    # Plugs without equality of their own show their settings.
    assert repr(ours) == repr(theirs)


def rooms(**settings):
    """A configuration with a room that has a room."""
    inner = OmegaConf.structured(Room())
    return OmegaConf.merge(OmegaConf.structured(Room(door=inner)), settings)


def test_settings_refer_to_those_outside_of_what_they_are_in():
    plug = {"_target_": "builtins.dict", "size": "${size}", "ids": {2: ["${door.size}"]}}
    found = built(rooms(size=3.0, doors={"a": plug, "b": [plug, None, 4]}))
    made = {"size": 3.0, "ids": {2: [1.0]}}
    assert found == Room(3.0, Room(), {"a": made, "b": [made, None, 4]})


def test_what_goes_wrong_names_its_key():
    with pytest.raises(ValueError, match=r"^size must be positive$"):
        built(rooms(door={"size": -1.0}))
    unset = rooms()
    unset.door.size = "???"
    with pytest.raises(MissingMandatoryValue) as missing:
        built(unset)
    assert missing.value.full_key == "door.size"
    with pytest.raises(InstantiationException, match=r"full_key: doors\.a"):
        built(rooms(doors={"a": {"_target_": "builtins.len"}}))
