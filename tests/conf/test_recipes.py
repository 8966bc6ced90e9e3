"""Recipes of the field compose, beside experiments and under the command line."""

import copy
import pickle
import re
from dataclasses import fields
from functools import cache

import pytest
from omegaconf import OmegaConf

from conf.schema import RunConfig
from launch.cli.refusals import UserError
from launch.program import build
from launch.run.plan_text import objective_text, sizes_text
from tests.composing import composed, composed_by_hydra
from tests.places import CONF

RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))


def built(name: str) -> RunConfig:
    config: RunConfig = copy.deepcopy(_built(name))
    return config


@cache
def _built(name: str) -> RunConfig:
    return build(composed("train", f"recipe={name}", "experiment=quickstart"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_with_an_experiment_and_travels(name):
    config = built(name)
    assert isinstance(config, RunConfig)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_which_plugs_of_the_algorithm_it_takes(name):
    """A default that changes must not change a published algorithm."""
    own = OmegaConf.load(CONF / "recipe" / f"{name}.yaml")
    chosen = {
        key.removeprefix("override /").split("@")[0]: value
        for entry in own.defaults
        for key, value in entry.items()
    }
    assert set(chosen) >= {"allocator", "thinning", "advantage", "aggregation", "objective"}
    config = composed("train", f"recipe={name}", "experiment=quickstart")
    places = {"objective": "objective", "branching": "rollout.branching"}
    for group, member in chosen.items():
        place = places.get(group, f"scheduler.{group}")
        expected = OmegaConf.load(CONF / group / f"{member}.yaml")._target_
        assert OmegaConf.select(config, place)._target_ == expected


def test_the_command_line_wins_over_a_recipe():
    config = composed("train", "recipe=grpo", "experiment=quickstart", "objective=cispo")
    assert config.objective._target_.endswith(".Cispo")
    config = composed("train", "recipe=gspo", "experiment=quickstart", "learner.num_minibatches=2")
    assert config.learner.num_minibatches == 2


def test_an_experiment_s_machine_sizes_win_over_a_recipe():
    with_recipe = composed("train", "recipe=grpo", "experiment=quickstart", "run_dir=run")
    without = composed("train", "experiment=quickstart", "run_dir=run")
    for key in ("model", "rollout", "resources", "learner", "loop"):
        assert with_recipe[key] == without[key]


def test_dr_grpo_divides_by_the_length_limit():
    config = composed("train", "recipe=dr_grpo", "experiment=quickstart", "rollout.max_tokens=100")
    assert config.scheduler.aggregation.reference_tokens == 100


def test_dapo_penalises_the_last_fifth_of_the_length_and_filters_groups():
    config = built("dapo")
    assert config.rollout.overlong.buffer_share == 4096 / 20480
    assert config.rollout.overlong.penalty == 1.0
    assert type(config.scheduler.allocator).__name__ == "DynamicSampling"


def test_aepo_is_grpo_with_exploring_tickets_and_says_so():
    config = built("aepo")
    grpo = built("grpo")
    control = config.scheduler.entropy_control
    assert (control.share, control.target) == (0.25, 0.5)
    assert (control.lower_temperature, control.higher_temperature) == (0.8, 1.2)
    text = objective_text(config)
    assert text.startswith("reweighted: exploring tickets") and "near 0.5 nats" in text
    assert "exploring" not in objective_text(grpo)
    assert config.responses_per_step * 4 == grpo.responses_per_step * 5
    config.scheduler.entropy_control = None
    assert (config.scheduler, config.objective) == (grpo.scheduler, grpo.objective)


@pytest.mark.parametrize(
    "choices",
    [
        ("recipe=sized", "allocator@scheduler.allocator=knapsack"),
        ("reuse@scheduler.reuse=earlier", "thinning@scheduler.thinning=pods"),
    ],
)
def test_the_remedy_of_a_refused_combination_can_be_typed(choices):
    with pytest.raises(UserError) as refused:
        build(composed("train", "experiment=quickstart", *choices))
    remedy = re.search(r"\S+=null", str(refused.value))
    assert remedy is not None
    build(composed_by_hydra("train", "experiment=quickstart", *choices, remedy[0]))


def test_sizes_that_move_are_said_before_the_run():
    config = built("sized")
    text = sizes_text(config)
    assert text.startswith("16 tickets x 8 responses = 128 responses, at most")
    assert text.endswith("; then 75 to 9 tickets x 2 to 16 responses")
    assert objective_text(config).startswith("uniform over prompts")
    fixed = built("priced")
    assert sizes_text(fixed).endswith(" tokens")
    with pytest.raises(UserError, match=r"num_minibatches must not exceed .* = 9, or what sched"):
        build(
            composed("train", "recipe=sized", "experiment=quickstart", "learner.num_minibatches=10")
        )


def test_capo_masks_tokens_and_says_so():
    config = built("capo")
    shares = config.learner.curvature
    assert (shares.low, shares.high, shares.shift) == (0.02, 0.0, 0.02)
    assert "biased by learner.curvature" in objective_text(config)
    for name in {*RECIPES} - {"capo"}:
        other = built(name)
        assert not other.learner.curvature.masks
        assert "curvature" not in objective_text(other)


def test_a_recipe_sets_no_reward_shaping_but_its_own():
    for name in {*RECIPES} - {"dapo"}:
        config = composed("train", f"recipe={name}", "experiment=quickstart")
        assert config.rollout.overlong.buffer_share == 0
        assert not config.rollout.overlong.filter_truncated
        assert not config.rollout.overlong.mask_truncated


def test_branching_is_told_of_and_no_other_recipe_s():
    config = built("agentic_aepo")
    assert "reweighted by rollout.branching" in objective_text(config)
    for name in {*RECIPES} - {"agentic_aepo"}:
        assert (
            composed("train", f"recipe={name}", "experiment=quickstart").rollout.branching is None
        )


def test_published_bounds():
    bounds = {}
    for name in RECIPES:
        objective = built(name).objective
        if {"clip_low", "clip_high"} <= {field.name for field in fields(objective)}:
            bounds[name] = (objective.clip_low, objective.clip_high)
    assert bounds == {
        "aepo": (0.2, 0.2),
        "agentic_aepo": (0.2, 0.28),
        "capo": (0.2, 0.2),
        "copo": (0.2, 0.2),
        "dapo": (0.2, 0.28),
        "dr_grpo": (0.2, 0.2),
        "gppo": (0.2, 0.28),
        "grpo": (0.2, 0.2),
        "gspo": (3e-4, 4e-4),
        "gvm_grpo": (0.2, 0.28),
        "gvm_raft": (0.2, 0.4),
        "informed": (0.2, 0.28),
        "ngrpo": (0.16, 0.24),
        "priced": (0.2, 0.28),
        "raft_plus_plus": (0.2, 0.28),
        "reinforce_plus_plus": (0.2, 0.2),
        "sized": (0.2, 0.28),
        "st_ppo": (0.2, 0.2),
    }


@pytest.mark.parametrize(("recipe", "plug"), [("gspo", "Gspo"), ("drpo", "DecoupledLength")])
@pytest.mark.parametrize("aggregation", ["batch_token_mean", "constant_length", "prompt_mean"])
def test_a_formula_that_needs_sequence_means_refuses_others(recipe, plug, aggregation):
    chosen = composed(
        "train",
        f"recipe={recipe}",
        "experiment=quickstart",
        f"aggregation@scheduler.aggregation={aggregation}",
    )
    sentence = rf"scheduler\.aggregation must .* sequence_mean does, .* {plug}, got "
    with pytest.raises(UserError, match=sentence):
        build(chosen)
