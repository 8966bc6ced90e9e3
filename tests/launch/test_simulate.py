"""The program: a study, a fit that hydra builds again, and what is refused."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conf.studies import SimulateConfig
from launch.cli.refusals import UserError
from launch.program import build
from launch.study.simulation.check import Comparison
from launch.study.simulation.plan import plan_sizes
from launch.study.simulation.profile_file import plain
from launch.study.simulation.sizes import simulate_sizes
from launch.study.simulation.tables import check_table, plan_table, study_table
from tests.composing import composed


def config(*overrides):
    found = build(composed("simulate", "run_dir=runs/x", *overrides))
    assert isinstance(found, SimulateConfig)
    return found


SMALL = ("profile.prompts.num_prompts=64", "scheduler.tickets_per_step=8", "num_steps=3")


def test_a_study_has_a_row_a_size_and_repeats_itself():
    settings = config(*SMALL, "accelerators=[1,8]", "target_pass_rate=0.6")
    rows = simulate_sizes(settings)
    assert [row.accelerators for row in rows] == [1, 8]
    assert (rows[1].engines, rows[1].learners) == (6, 2)
    assert rows[1].step_seconds < rows[0].step_seconds
    assert rows[1].steps_to_target > 0
    assert rows == simulate_sizes(settings)
    table = study_table(settings.profile, rows, 0.6)
    assert table.row_count == 2 and "stated" in str(table.title)


def test_the_batch_may_grow_with_the_accelerators():
    rows = simulate_sizes(config(*SMALL, "accelerators=[2,6]", "tickets_per_accelerator=2.0"))
    assert [row.tickets_per_step for row in rows] == [4, 12]


def test_a_plan_moves_accelerators_that_thinning_frees_to_generation():
    slow_learners = ("profile.learner.token_seconds=1e-3", "scheduler.tickets_per_step=32")
    settings = config(*SMALL, "plan=true", "accelerators=[8]", *slow_learners)
    (plan,) = plan_sizes(settings)
    assert plan.keep_all.engines < plan.thinned.engines
    assert plan.unmoved.engines == plan.keep_all.engines
    assert plan.thinned.step_seconds <= plan.unmoved.step_seconds < plan.keep_all.step_seconds
    assert plan.gain(plan.keep_all) == 1 < plan.gain(plan.thinned)
    assert plan.trained_share(plan.thinned) < 0.7
    assert plan_table(settings.profile, [plan], 0.6).row_count == 3


def test_a_plan_needs_a_thinning_and_no_real_run():
    plan = ("plan=true", "accelerators=[8]")
    with pytest.raises(UserError, match="thinning must leave something out"):
        config(*plan, "thinning@scheduler.thinning=keep_all")
    with pytest.raises(UserError, match="plan must be false with fit or check"):
        config(*plan, "check=runs/other")


def test_a_profile_is_written_as_hydra_builds_it():
    profile = config().profile
    assert instantiate(OmegaConf.create(plain(profile)), _convert_="object") == profile


def test_a_check_is_laid_out():
    table = check_table("run", [Comparison("step seconds", 2.0, 2.2)])
    assert table.row_count == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("accelerators=[]", "accelerators must name"),
        ("learner_share=1.0", "learner_share must lie in"),
        ("num_steps=0", "num_steps must be at least 1"),
        ("update_mode=drain", "update_mode must be recompute or keep_kv"),
        ("fit=x", "out must name the file"),
        ("plan=true", "accelerators must each be more than 1"),
        (
            "+entropy_control@scheduler.entropy_control=aepo",
            r"^scheduler\.entropy_control must be null: what is simulated has no entropy",
        ),
        ("profile.engine.max_num_seqs=0", r"profile\.engine.*max_num_seqs must be at least 1"),
    ],
)
def test_what_cannot_be_simulated_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        config(override)


def test_too_few_accelerators_for_an_engine_are_refused():
    with pytest.raises(UserError, match="at least 8"):
        simulate_sizes(config(*SMALL, "accelerators=[4]", "+profile.engine.accelerators=8"))
