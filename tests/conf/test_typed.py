"""Schemas and plugs are built as hydra builds them, each section once."""

import copy
from collections import Counter

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from conf.schema import LoopConfig, RunConfig
from conf.typed import typed
from tests.composing import composed

RUNS = [
    ("train", ["experiment=quickstart", "run_dir=x"]),
    ("train", ["experiment=smollm2_mixed", "recipe=dapo", "run_dir=x"]),
    ("train", ["experiment=calculator", "recipe=aepo", "run_dir=x"]),
    ("evaluate", ["experiment=quickstart_check", "run_dir=x"]),
    ("compare", ["run_dir=x"]),
    ("simulate", ["run_dir=x"]),
    ("submit", []),
    ("variance", []),
    ("predict", []),
]


@pytest.mark.parametrize(("program", "overrides"), RUNS)
def test_what_is_built_is_what_hydra_builds(program, overrides):
    config = composed(program, *overrides)
    before = copy.deepcopy(config)
    built = typed(config)
    assert built == instantiate(config, _convert_="object")
    assert type(built) is OmegaConf.get_type(config)
    assert config == before


def test_a_section_is_built_once(monkeypatch):
    made = Counter()
    for schema in (LoopConfig, RunConfig):
        check = schema.__post_init__

        def counted(self, schema=schema, check=check):
            made[schema] += 1
            check(self)

        monkeypatch.setattr(schema, "__post_init__", counted)
    typed(composed("train", "experiment=quickstart"))
    assert made == {LoopConfig: 1, RunConfig: 1}


def test_what_is_missing_or_refers_to_nothing_is_named():
    with pytest.raises(MissingMandatoryValue) as missing:
        typed(composed("train", "experiment=jsonl_math", "task.path=x", "run_dir=x"))
    assert missing.value.full_key == "model.path"
    config = composed("train", "experiment=quickstart")
    OmegaConf.update(config, "loop.num_steps", "${nowhere}")
    with pytest.raises(InterpolationKeyError, match="nowhere"):
        typed(config)
