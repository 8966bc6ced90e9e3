"""Planning a comparison, going on with it, and what it refuses; nothing is started."""

import json
import shutil

import pytest

from conf.schema import CompareConfig, register
from launch.compare import plan_runs, results_of, set_aside
from launch.compose import UserError

PLAIN = ["allocator@scheduler.allocator=epoch", "thinning@scheduler.thinning=keep_all"]
register()


@pytest.fixture
def make_config(tmp_path):
    def make(**changes):
        settings = {
            "name": "compare", "run_dir": str(tmp_path / "out"), "seeds": [0, 1],
            "base": ["experiment=quickstart"], "arms": {"plain": PLAIN, "aware": []},
            "max_generated_tokens": 5000,
        }  # fmt: skip
        return CompareConfig(**(settings | changes))

    return make


def finish(run, **content):
    run.run_dir.mkdir(parents=True)
    text = json.dumps({"completed": True, "pass_rate_after": 0.5} | content)
    (run.run_dir / "summary.json").write_text(text)


def test_seeds_are_outermost_and_runs_carry_budget_and_place(make_config, tmp_path):
    planned = plan_runs(make_config())
    assert [(run.seed, run.arm) for run in planned] == [
        (0, "plain"), (0, "aware"), (1, "plain"), (1, "aware"),
    ]  # fmt: skip
    first, second = planned[0].composed, planned[1].composed
    assert first.loop.max_generated_tokens == second.loop.max_generated_tokens == 5000
    assert first.run_dir == str(tmp_path / "out" / "plain" / "seed-0")
    assert first.evaluation.before and not second.evaluation.before
    assert first.scheduler.allocator._target_.endswith("Uniform")
    assert second.scheduler.allocator._target_.endswith("SquareRoot")
    assert {run.composed.seed for run in planned} == {0, 1}


def test_finished_runs_count_and_others_do_not(make_config):
    planned = plan_runs(make_config())
    finish(planned[0])
    finish(planned[1], completed=False)
    assert planned[0].summary() is not None
    assert all(run.summary() is None for run in planned[1:])
    assert list(results_of(planned)) == ["plain"]


def test_what_an_interrupted_run_left_is_kept(make_config):
    run = plan_runs(make_config())[0]
    for count in (1, 2):
        finish(run, completed=False)
        set_aside(run.run_dir)
        assert not run.run_dir.exists()
        assert (run.run_dir.parent / f"seed-0.interrupted-{count}" / "summary.json").exists()
    set_aside(run.run_dir)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["task.num_prompts=7"], "task"),
        (["rollout.temperature=0.5"], "rollout"),
        (["resources.num_engines=2"], "resources"),
        (["evaluation.num_samples=2"], "evaluation"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(make_config, overrides, key):
    with pytest.raises(UserError, match=rf"^arms must share {key}, .*plain has .*odd has"):
        plan_runs(make_config(arms={"plain": [], "odd": overrides}))


def test_arms_may_differ_in_the_learner(make_config):
    assert plan_runs(make_config(arms={"plain": [], "slow": ["learner.lr=1e-6"]}))


def test_an_arm_that_does_not_compose_is_named(make_config):
    with pytest.raises(UserError, match=r"^arms\.typo: .*allocatr"):
        plan_runs(make_config(arms={"plain": [], "typo": ["allocatr=epoch"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms must name at least one arm"),
        ({"arms": {"../x": []}}, "arms must have names of letters"),
        ({"seeds": []}, "seeds must name at least one seed"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"max_generated_tokens": 0}, "max_generated_tokens must be positive"),
    ],
)
def test_refuses(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_shipped_comparisons_compose(make_config):
    from pathlib import Path

    from omegaconf import OmegaConf

    folder = Path(__file__).parents[2] / "conf" / "comparison"
    for path in sorted(folder.glob("*.yaml")):
        arms = OmegaConf.to_container(OmegaConf.load(path))["arms"]
        planned = plan_runs(make_config(arms=arms, seeds=[0]))
        assert len(planned) == len(arms)
        shutil.rmtree(make_config().run_dir, ignore_errors=True)
