"""Planning a comparison, going on with it, and what it refuses; nothing is started."""

import functools
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conf.programs import BudgetConfig, CompareConfig, register
from launch import compare
from launch.compare import (
    PLAN,
    check,
    plan_content,
    plan_runs,
    report,
    require_own_folder,
    require_reachable,
    results_of,
    set_aside,
)
from launch.program import UserError, build
from launch.run.inputs import resolve_model
from tests.places import CONF

PLAIN = ["allocator@scheduler.allocator=epoch", "thinning@scheduler.thinning=keep_all"]
SUMMARY = {
    "completed": True, "pass_rate_after": 0.5, "pass_rate_before": 0.3, "pass_at_8_after": 0.9,
    "num_steps": 2, "generated_tokens": 5000, "selectable_tokens": 5000, "trained_tokens": 4000,
}  # fmt: skip
register()
composed_once = functools.cache(compare.compose)


@pytest.fixture(autouse=True)
def fast_compose(monkeypatch):
    """Composing takes most of the time, and the same few arms come again and again."""
    monkeypatch.setattr(
        compare, "compose", lambda name, overrides: composed_once(name, tuple(overrides)).copy()
    )


@pytest.fixture
def make_config(tmp_path):
    def make(**changes):
        settings = {
            "name": "compare", "run_dir": str(tmp_path / "out"), "seeds": [0, 1],
            "base": ["experiment=quickstart"], "arms": {"plain": PLAIN, "aware": []},
            "budget": BudgetConfig(amount=5000),
        }  # fmt: skip
        return CompareConfig(**(settings | changes))

    return make


def finish(run, num_lines=2, **content):
    """Leave behind what a run leaves, as far as a comparison reads it."""
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "summary.json").write_text(json.dumps(SUMMARY | content))
    composed = run.composed.copy()
    composed.model.path = resolve_model(composed.model.path)
    OmegaConf.save(composed, run.run_dir / "config.yaml", resolve=True)
    lines = [
        {
            "step": step, "cost/generated_tokens": 2500 * step, "cost/trained_tokens": 2000 * step,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 2.0, "loop/publish_seconds": 0.5,
            "cost/reward_mean_uniform": 0.4 + 0.05 * step + 0.01 * run.seed,
        }
        for step in range(1, num_lines + 1)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.run_dir / "metrics.jsonl").write_text(text)


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_plan(config):
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(plan_content(config)), folder / PLAN)
    return folder


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


@pytest.mark.parametrize(
    ("axis", "amount", "expected"),
    [
        ("generated_tokens", 700, (700, None, None, 90)),
        ("trained_tokens", 700, (None, 700, None, 90)),
        ("seconds", 2.5, (None, None, 2.5, 90)),
        ("steps", 70, (None, None, None, 70)),
    ],
)
def test_a_budget_bounds_its_axis_and_no_other(make_config, axis, amount, expected):
    base = ["experiment=quickstart", "loop.max_generated_tokens=1", "loop.max_seconds=1"]
    budget = BudgetConfig(axis=axis, amount=amount)
    config = make_config(budget=budget, max_steps=90, seeds=[0], base=base)
    for run in plan_runs(config):
        loop = build(run.composed).loop
        bounds = (loop.max_generated_tokens, loop.max_trained_tokens, loop.max_seconds)
        assert (*bounds, loop.num_steps) == expected


def test_finished_runs_count_and_others_do_not(make_config):
    planned = plan_runs(make_config())
    finish(planned[0])
    finish(planned[1], completed=False)
    assert planned[0].summary() is not None
    assert all(run.summary() is None for run in planned[1:])
    assert list(results_of(planned)) == ["plain"]


def test_the_first_arms_start_is_every_arms(make_config):
    planned = plan_runs(make_config(seeds=[0]))
    finish(planned[0], pass_rate_before=0.31)
    finish(planned[1], pass_rate_before=None)
    results = results_of(planned)
    assert results["plain"][0].curve.start == results["aware"][0].curve.start == 0.31


def test_what_an_interrupted_run_left_is_kept(make_config):
    run = plan_runs(make_config())[0]
    for count in (1, 2):
        finish(run, completed=False)
        aside = set_aside(run.run_dir)
        assert not run.run_dir.exists()
        assert aside == run.run_dir.parent / f"seed-0.interrupted-{count}"
        assert (aside / "summary.json").exists()
    assert set_aside(run.run_dir) is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["task.num_prompts=7"], "task"),
        (["rollout.temperature=0.5"], "rollout"),
        (["resources.num_engines=2"], "resources"),
        (["evaluation.num_samples=2"], "evaluation"),
        (["evaluation.every=2"], "evaluation"),
        (["learner.lora.rank=2", "learner.lora.publish=adapters"], "learner.lora.publish"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(make_config, overrides, key):
    with pytest.raises(UserError, match=rf"^arms must share {key}, .*plain has .*odd has"):
        plan_runs(make_config(arms={"plain": [], "odd": overrides}))


def test_evaluations_beside_training_are_refused_where_seconds_are_the_budget(make_config):
    base = ["experiment=quickstart", "evaluation.every=2", "evaluation.background=true"]
    budget = BudgetConfig(axis="seconds", amount=60)
    with pytest.raises(UserError, match=r"^evaluation\.background must be false"):
        plan_runs(make_config(base=base, budget=budget))
    assert plan_runs(make_config(base=base))


def test_a_tracker_that_knows_groups_is_told_comparison_arm_and_seed(make_config):
    base = ["experiment=quickstart", "tracker=wandb"]
    runs = plan_runs(make_config(base=[*base, "tracker.wandb.tags=[cpu]"]))
    wandb = [run.composed.tracker.wandb for run in runs]
    assert {each.group for each in wandb} == {"compare"}
    assert [list(each.tags) for each in wandb] == [
        ["cpu", "plain", "seed-0"],
        ["cpu", "aware", "seed-0"],
        ["cpu", "plain", "seed-1"],
        ["cpu", "aware", "seed-1"],
    ]
    [first, *_] = plan_runs(make_config(base=[*base, "tracker.wandb.group=mine"]))
    assert first.composed.tracker.wandb.group == "mine"


def test_runs_that_would_not_be_evaluated_are_refused(make_config):
    base = ["experiment=quickstart", "evaluation.after=false"]
    with pytest.raises(UserError, match=r"^evaluation\.after must be true"):
        plan_runs(make_config(base=base))


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
        ({"max_steps": 0}, "max_steps must be positive"),
    ],
)
def test_refuses(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


@pytest.mark.parametrize(("axis", "factor"), [("generated_tokens", 20), ("trained_tokens", 1)])
def test_a_budget_no_arm_can_reach_is_refused(make_config, axis, factor):
    """A step of the quickstart has 16 x 8 responses of 512 tokens at most."""
    most = 3 * 16 * 8 * 512 * factor
    for amount, refused in ((most, False), (most + 1, True)):
        config = make_config(budget=BudgetConfig(axis=axis, amount=amount), max_steps=3)
        arms = {run.arm: build(run.composed) for run in plan_runs(config)[:2]}
        if refused:
            with pytest.raises(UserError, match=r"^budget\.amount must be within reach .* got "):
                require_reachable(config, arms)
        else:
            require_reachable(config, arms)


def test_a_folder_of_something_else_is_refused_and_left_alone(make_config):
    config = make_config()
    folder = Path(config.run_dir)
    require_own_folder(config, folder)
    folder.mkdir(parents=True)
    require_own_folder(config, folder)
    (folder / "summary.json").write_text("{}")
    before = contents(folder)
    with pytest.raises(UserError, match=r"^run_dir must be new, empty or a comp.*, got .*out"):
        check(config, folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"budget": BudgetConfig(amount=6000)}, "budget"),
        ({"budget": BudgetConfig(axis="steps", amount=5000)}, "budget"),
        ({"base": ["experiment=quickstart", "learner.lr=1e-4"]}, "base"),
        ({"max_steps": 12}, "max_steps"),
        ({"arms": {"plain": PLAIN, "aware": ["learner.lr=1e-4"]}}, "arms.aware"),
    ],
)
def test_a_name_that_holds_another_comparison_is_refused(make_config, changes, key):
    folder = write_plan(make_config())
    before = contents(folder)
    with pytest.raises(UserError, match=rf"holds a comparison with another {key} .*another name"):
        check(make_config(**changes), folder)
    assert contents(folder) == before


def test_arms_and_seeds_may_be_added(make_config):
    folder = write_plan(make_config())
    more = make_config(seeds=[0, 1, 2], arms={"plain": PLAIN, "aware": [], "other": PLAIN})
    finish(plan_runs(make_config())[0])
    planned = check(more, folder)
    assert len(planned) == 9 and sum(run.summary() is not None for run in planned) == 1


def test_a_finished_run_of_other_settings_is_refused(make_config):
    folder = write_plan(make_config())
    run = plan_runs(make_config())[0]
    finish(run)
    check(make_config(), folder)
    path = run.run_dir / "config.yaml"
    there = OmegaConf.load(path)
    there.learner.lr = 0.25
    OmegaConf.save(there, path)
    with pytest.raises(UserError, match=r"seed-0 was run with other .*learner\.lr is 0\.25 there"):
        check(make_config(), folder)
    there.learner.lr = run.composed.learner.lr
    del there.loop["max_seconds"]
    OmegaConf.save(there, path)
    with pytest.raises(UserError, match=r"max_seconds is 'nothing' there and None now"):
        check(make_config(), folder)
    path.unlink()
    with pytest.raises(UserError, match=r"has no config\.yaml, or move the folder away"):
        check(make_config(), folder)


def test_a_summary_that_cannot_be_read_is_refused(make_config):
    folder = write_plan(make_config())
    run = plan_runs(make_config())[0]
    finish(run, selectable_tokens=None)
    with pytest.raises(UserError, match=r"summary\.json has no selectable_tokens, so it is of"):
        check(make_config(), folder)
    for text, said in (("{", "is not JSON"), ("[1]", "has no results")):
        (run.run_dir / "summary.json").write_text(text)
        with pytest.raises(UserError, match=rf"seed-0': summary\.json {said}, or move the folder"):
            check(make_config(), folder)


def test_metrics_that_are_not_all_there_are_refused(make_config):
    folder = write_plan(make_config())
    run = plan_runs(make_config())[0]
    finish(run, num_lines=1)
    with pytest.raises(UserError, match=r"metrics\.jsonl has 1 steps, and at least 2 steps"):
        check(make_config(), folder)
    for text, said in (
        ('{"step": 1}\n{"step": 2}\n', r"no line of metrics\.jsonl has cost/generated_tokens"),
        ('{"st', r"line 1 of metrics\.jsonl is not JSON"),
        ("", r"metrics\.jsonl has no step"),
    ):
        (run.run_dir / "metrics.jsonl").write_text(text)
        with pytest.raises(UserError, match=rf"{said}.*, or move the folder away to run it again"):
            check(make_config(), folder)


def test_the_report_is_printed_and_written(make_config, capsys):
    folder = write_plan(make_config())
    planned = plan_runs(make_config())
    for number, run in enumerate(planned):
        finish(run, pass_rate_after=0.5 + 0.01 * number)
    report(make_config(), planned, folder)
    out = capsys.readouterr().out
    assert "aware: " in out and "comparison.html" in out and "5% test is out of reach" in out
    content = json.loads((folder / "comparison.json").read_text())
    assert content["budget"] == {"axis": "generated_tokens", "amount": 5000}
    assert [row["arm"] for row in content["arms"]] == ["plain", "aware"]
    assert "<svg" in (folder / "comparison.html").read_text()


def test_shipped_comparisons_compose(make_config):
    folder = CONF / "comparison"
    for path in sorted(folder.glob("*.yaml")):
        arms = OmegaConf.to_container(OmegaConf.load(path))["arms"]
        planned = plan_runs(make_config(arms=arms, seeds=[0]))
        assert len(planned) == len(arms)


def test_the_baselines_are_the_four_of_the_field_and_ours(make_config):
    folder = CONF / "comparison"
    arms = OmegaConf.to_container(OmegaConf.load(folder / "baselines.yaml"))["arms"]
    schedulers = {
        run.arm: run.composed.scheduler for run in plan_runs(make_config(arms=arms, seeds=[0]))
    }
    thinnings = {arm: each.thinning._target_.split(".")[-1] for arm, each in schedulers.items()}
    assert thinnings == {
        "epoch": "KeepAll", "non_zero": "NonZero", "advantage_only": "AdvantageOnly",
        "paper_proxy": "CostAware", "ours": "CostAware",
    }  # fmt: skip
    proxies = {arm: each.proxy._target_.split(".")[-1] for arm, each in schedulers.items()}
    assert (proxies["paper_proxy"], proxies["ours"]) == ("AdvantageProxy", "SurpriseProxy")
    draws = {arm for arm, each in schedulers.items() if each.allocator._target_.endswith("Uniform")}
    assert draws == set(arms) - {"ours"}
