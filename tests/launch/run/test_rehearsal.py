"""Plugs of the user's are tried before anything starts, and what they get wrong is one sentence."""

import pytest
from omegaconf import OmegaConf

from launch.cli.refusals import UserError
from launch.run.inputs import read_inputs
from launch.run.rehearsal import rehearse
from tests.composing import composed
from tests.places import CONF

OWN = """
from dataclasses import dataclass

import numpy as np

from cost.draws.allocators.types import Allocation
from cost.draws.allocators.uniform import Uniform
from cost.thinning.proxies import AdvantageProxy

DRAWS = []


@dataclass(frozen=True)
class Counting(Uniform):
    def allocate(self, estimates, state):
        DRAWS.append(len(estimates.lengths))
        return Uniform.allocate(self, estimates, state)


@dataclass(frozen=True)
class Negative(Uniform):
    def allocate(self, estimates, state):
        size = len(estimates.lengths)
        return Allocation(np.full(size, -1.0), np.ones(size))


@dataclass(frozen=True)
class Stateless(Uniform):
    def allocate(self, estimates):
        pass


@dataclass(frozen=True)
class Missing(AdvantageProxy):
    def score(self, advantages, lengths, surprise, factors, ticket_weights):
        return {}["norms"]
"""


@pytest.fixture
def config(tmp_path):
    """Compose the quickstart with a plug of the user's."""
    (tmp_path / "own_plugs.py").write_text(OWN)

    def make(*overrides, **plugs):
        made = composed(
            "train", "experiment=quickstart", f"run_dir={tmp_path / 'run'}", "task.num_prompts=12",
            "held_out.num_prompts=2", "scheduler.tickets_per_step=4", *overrides,
        )  # fmt: skip
        for key, name in plugs.items():
            own = {"_target_": f"{tmp_path}/own_plugs.py:{name}"}
            OmegaConf.update(made, f"scheduler.{key}", own, merge=False, force_add=True)
        return made

    return make


@pytest.mark.parametrize(
    ("plug", "told"),
    [
        ({"allocator": "Negative"}, r"^scheduler.allocator: probabilities must be finite"),
        ({"allocator": "Stateless"}, r"one of yours raised TypeError: Stateless.allocate"),
        ({"proxy": "Missing"}, r"raised KeyError: 'norms' \(.*own_plugs.py:36\)$"),
    ],
)
def test_what_a_plug_gets_wrong_is_told_before_anything_starts(config, plug, told):
    with pytest.raises(UserError, match=told):
        read_inputs(config(**plug))


def test_a_plug_that_is_right_is_drawn_with_and_none_of_the_project_is_tried(config, monkeypatch):
    read = read_inputs(config(allocator="Counting"))
    draws = read.config.scheduler.allocator.allocate.__globals__["DRAWS"]
    assert set(draws) == {12} and len(draws) >= 2
    monkeypatch.setattr("launch.run.inputs.rehearse", None)
    read_inputs(config())


ALLOCATORS = sorted(path.stem for path in (CONF / "allocator").glob("*.yaml"))
RECIPES = ("gvm_grpo", "informed", "sized", "priced", "capo", "scale_rl")


@pytest.mark.parametrize(
    "draws",
    [
        *(f"recipe={name}" for name in RECIPES),
        *(f"allocator@scheduler.allocator={name}" for name in ALLOCATORS),
        "reuse@scheduler.reuse=earlier",
    ],
)
def test_every_way_to_draw_can_be_rehearsed(config, draws):
    read = read_inputs(config(draws))
    rehearse(read.config, read.prompts)
