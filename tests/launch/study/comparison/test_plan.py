"""Which runs a comparison plans, and which arms it refuses; nothing is started."""

import pytest
from omegaconf import OmegaConf

from conf.programs import BudgetConfig
from launch.cli.refusals import UserError
from launch.program import build
from launch.study.comparison.plan import plan_runs
from tests.places import CONF


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
        ("generated_tokens", 700, (700, None, None, None, 90)),
        ("trained_tokens", 700, (None, 700, None, None, 90)),
        ("compute_flops", 2.5e13, (None, None, 2.5e13, None, 90)),
        ("seconds", 2.5, (None, None, None, 2.5, 90)),
        ("steps", 70, (None, None, None, None, 70)),
    ],
)
def test_a_budget_bounds_its_axis_and_no_other(make_config, axis, amount, expected):
    base = ["experiment=quickstart", "loop={max_generated_tokens: 1, max_seconds: 1}"]
    budget = BudgetConfig(axis=axis, amount=amount)
    config = make_config(budget=budget, max_steps=90, seeds=[0], base=base)
    for run in plan_runs(config):
        loop = build(run.composed).loop
        tokens = (loop.max_generated_tokens, loop.max_trained_tokens)
        assert (*tokens, loop.max_compute_flops, loop.max_seconds, loop.num_steps) == expected


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=3", "and given to all runs as seeds, got 'seed=3'"),
        ("loop.num_steps=3", "as budget or max_steps, got"),
        ("name=mine", "and given to the comparison, got"),
        ("evaluation.before=false", "and measured with the first arm, once for all runs of a seed"),
    ],
)
def test_what_a_comparison_sets_itself_is_refused_in_base_and_arms(make_config, override, said):
    key = override.partition("=")[0]
    base = ["experiment=quickstart", override]
    for config in (make_config(base=base), make_config(arms={"plain": [override]})):
        with pytest.raises(UserError, match=rf"^arms.plain: {key} must be left out .*{said}"):
            plan_runs(config)


BASE = [
    "experiment=quickstart",
    "objective=mine.py:Mine",
    "objective.alpha=2",
    "thinning@scheduler.thinning=priced",
    "scheduler.thinning.floor=0.5",
    "~sizing@scheduler.sizing",
    "learner.num_minibatches=2",
]


@pytest.mark.parametrize(
    ("arm", "objective", "thinning"),
    [
        ([], "FunctionObjective", "Priced"),
        (["recipe=gspo"], "Gspo", "KeepAll"),
        (["recipe=gspo", "objective=cispo"], "Cispo", "KeepAll"),
        (["recipe=sized"], "ClippedSurrogate", "Priced"),
        (["recipe=grpo", "thinning@scheduler.thinning=priced"], "ClippedSurrogate", "Priced"),
    ],
)
def test_an_arms_recipe_takes_the_place_of_the_bases_members(make_config, arm, objective, thinning):
    """With what the base sets of them; its other settings count, as those of a command line do."""
    [run] = plan_runs(make_config(base=BASE, arms={"mine": arm}, seeds=[0]))
    found = run.composed.scheduler.thinning
    plugs = (run.composed.objective, found)
    names = [each._target_.rpartition(".")[2] for each in plugs]
    assert names == [objective, thinning]
    assert (found.get("floor") == 0.5) == (thinning == "Priced")
    assert (run.composed.scheduler.sizing is not None) == (arm == ["recipe=sized"])
    assert run.composed.learner.num_minibatches == 2


def test_an_arms_recipe_takes_the_place_of_the_bases(make_config):
    arms = {"gspo": [], "grpo": ["recipe=grpo"]}
    config = make_config(base=["experiment=quickstart", "recipe=gspo"], arms=arms, seeds=[0])
    gspo, grpo = (run.composed for run in plan_runs(config))
    assert (gspo.learner.num_minibatches, grpo.learner.num_minibatches) == (4, 1)
    assert grpo.objective._target_.endswith("ClippedSurrogate")


def test_runs_leave_no_policy_unless_the_comparison_says_so(make_config):
    arms = {"plain": [], "kept": ["loop.save_final=true"]}
    kept = [run.composed.loop.save_final for run in plan_runs(make_config(arms=arms, seeds=[0]))]
    assert kept == [False, True]
    base = ["experiment=quickstart", "loop.save_final=true"]
    assert plan_runs(make_config(base=base))[0].composed.loop.save_final


def test_trackers_may_have_no_console(make_config):
    base = ["experiment=quickstart", "tracker.console=null"]
    assert "console" not in plan_runs(make_config(base=base))[0].composed.tracker


@pytest.mark.parametrize(
    ("axis", "amount", "expected"),
    [("compute_flops", 1e12, 2.5e11), ("steps", 10, 3), ("generated_tokens", 5001, 1251)],
)
def test_an_arm_may_spend_a_share_of_the_budget(make_config, axis, amount, expected):
    budget = BudgetConfig(axis=axis, amount=amount, shares={"aware": 0.25})
    plain, aware = (run.composed.loop for run in plan_runs(make_config(budget=budget, seeds=[0])))
    key = "num_steps" if axis == "steps" else f"max_{axis}"
    assert (plain[key], aware[key]) == (amount, expected)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["task.num_prompts=7"], r"task\.num_prompts"),
        (["rollout.temperature=0.5"], r"rollout\.temperature"),
        (["resources.num_engines=2"], r"resources\.num_engines"),
        (["evaluation.num_samples=2"], r"evaluation\.num_samples"),
        (["evaluation.every=2"], r"evaluation\.every"),
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


def test_arms_may_differ_in_what_shapes_rewards_and_plays_of_training(make_config):
    """As recipes do, one of which the speedrun's command names."""
    arms = {
        "plain": [],
        "dapo": ["recipe=dapo"],
        "branched": ["branching@rollout.branching=agentic_aepo"],
    }
    shares = {
        run.arm: run.composed.rollout.overlong.buffer_share
        for run in plan_runs(make_config(arms=arms))
    }
    assert shares == {"plain": 0.0, "dapo": 0.2, "branched": 0.0}


def test_arms_may_differ_in_the_learner(make_config):
    assert plan_runs(make_config(arms={"plain": [], "slow": ["learner.lr=1e-6"]}))


def test_an_arm_that_does_not_compose_is_named(make_config):
    with pytest.raises(UserError, match=r"^arms\.typo: .*allocatr"):
        plan_runs(make_config(arms={"plain": [], "typo": ["allocatr=epoch"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms must name at least one arm"),
        ({"arms": {"../x": []}}, "arms must be 1 to 100 letters"),
        ({"seeds": []}, "seeds must name at least one seed"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"max_steps": 0}, "max_steps must be positive"),
    ],
)
def test_refuses(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_shipped_comparisons_compose(make_config):
    """Each way of training once; the sweep of two ends has a test of its own."""
    found = {}
    for path in sorted((CONF / "comparison").glob("*.yaml")):
        arms = OmegaConf.to_container(OmegaConf.load(path))["arms"]
        assert arms, path
        if path.stem != "two_ends_sweep":
            found |= {tuple(overrides): overrides for overrides in arms.values()}
    arms = {f"arm_{number}": overrides for number, overrides in enumerate(found.values())}
    planned = plan_runs(make_config(arms=arms, seeds=[0]))
    assert [run.arm for run in planned] == list(arms)


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


def test_the_sweep_of_two_ends_tries_every_pair_from_the_recipes_own(make_config):
    arms = OmegaConf.to_container(OmegaConf.load(CONF / "comparison" / "two_ends_sweep.yaml"))
    base = ["experiment=quickstart_two_ends"]
    planned = plan_runs(make_config(arms=arms["arms"], seeds=[0], base=base))
    learners = {run.arm: run.composed.learner for run in planned}
    plain = {arm for arm in learners if not arm.startswith("ours")}
    pairs = {(learners[arm].max_grad_norm, learners[arm].lr) for arm in plain}
    assert pairs == {(norm, lr) for norm in (0.1, 0.3, 1.0) for lr in (3.5e-5, 7e-5, 1.4e-4)}
    own = plan_runs(make_config(arms={"own": []}, seeds=[0], base=base))[0].composed.learner
    assert learners[planned[0].arm] == own
    clipped = {run.arm for run in planned if run.composed.scheduler.clipping is not None}
    assert clipped == {"ours_norm_1_clipped"}


def test_runs_take_no_checkpoints_unless_the_comparison_says_so(make_config):
    def checkpoints(**changes):
        (run,) = plan_runs(make_config(seeds=[0], **changes))
        found = run.composed.checkpoint
        return found.every_seconds, found.every_steps, found.at_end

    base = ["experiment=quickstart", "checkpoint.every_steps=5"]
    assert checkpoints(arms={"plain": []}) == (None, 0, False)
    assert checkpoints(arms={"plain": []}, base=base) == (None, 5, False)
    assert checkpoints(arms={"plain": ["checkpoint.at_end=true"]}) == (None, 0, True)
