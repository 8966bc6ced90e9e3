"""Recipes of the field compose, beside experiments and under the command line."""

import pickle
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from conf.schema import RunConfig, register
from launch.compose import build

register()
CONF = Path(__file__).resolve().parents[2] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*overrides])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("experiment", ["quickstart", "jsonl_math"])
def test_every_recipe_builds_with_an_experiment_and_travels(name, experiment):
    chosen = composed(f"recipe={name}", f"experiment={experiment}", "model.path=model")
    config = build(chosen)
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
    config = composed(f"recipe={name}", "experiment=quickstart")
    for group, member in chosen.items():
        place = group if group == "objective" else f"scheduler.{group}"
        expected = OmegaConf.load(CONF / group / f"{member}.yaml")._target_
        assert OmegaConf.select(config, place)._target_ == expected


def test_the_command_line_wins_over_a_recipe():
    config = composed("recipe=grpo", "experiment=quickstart", "objective=cispo")
    assert config.objective._target_.endswith(".Cispo")
    config = composed("recipe=gspo", "experiment=quickstart", "learner.num_minibatches=2")
    assert config.learner.num_minibatches == 2


def test_an_experiment_s_machine_sizes_win_over_a_recipe():
    with_recipe = composed("recipe=grpo", "experiment=quickstart", "run_dir=run")
    without = composed("experiment=quickstart", "run_dir=run")
    for key in ("model", "rollout", "resources", "learner", "loop"):
        assert with_recipe[key] == without[key]


def test_dr_grpo_divides_by_the_length_limit():
    config = composed("recipe=dr_grpo", "experiment=quickstart", "rollout.max_tokens=100")
    assert config.scheduler.aggregation.reference_tokens == 100
