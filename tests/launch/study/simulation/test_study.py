"""The real loop in simulated time against closed forms; conservation; size."""

from dataclasses import replace

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cost.advantages.within_group import LeaveOneOut
from cost.draws.sizing import Priced as Sized
from cost.scheduler.config import SchedulerConfig
from cost.thinning.thinning import KeepAll
from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.sizes import row, split
from launch.study.simulation.speeds import EngineSpeed, LearnerSpeed, PublishSpeed, most_tokens
from launch.study.simulation.study import simulate
from launch.study.simulation.system import Layout, slowdowns
from launch.study.simulation.task import MeasuredPrompts, ResponseLengths
from learner.partition import plan_rows
from tests.places import CONF

PLUGS = {
    "length": "pool_mean", "price": "tokens", "utility": "constant", "allocator": "epoch",
    "thinning": "keep_all", "proxy": "advantage", "advantage": "group_standardised",
    "aggregation": "sequence_mean",
}  # fmt: skip
LENGTH, PROMPT, P, N = 100, 20, 4, 2


def scheduler(**numbers):
    plugs = {
        group: instantiate(OmegaConf.load(CONF / group / f"{name}.yaml"), _convert_="object")
        for group, name in PLUGS.items()
    }
    return SchedulerConfig(**plugs | {"tickets_per_step": P, "group_size": N} | numbers)


def profile(**changes):
    """Every response has 100 tokens, every prompt 20; nothing but decoding and tokens costs."""
    plain = Profile(
        source="stated: a test",
        accelerator="test",
        max_tokens=1000,
        surprise_per_token=0.1,
        prompts=MeasuredPrompts(
            tokens=[PROMPT] * 8, mean_tokens=[float(LENGTH)] * 8, pass_rates=[0.5] * 8
        ),
        lengths=ResponseLengths(),
        learning=LearningLaw(gain_logits=0.5, noise_responses=8.0),
        engine=EngineSpeed(
            max_num_seqs=64, step_seconds=0.01, sequence_seconds=0.0, prefill_token_seconds=0.0
        ),
        learner=LearnerSpeed(token_seconds=1e-3),
        publish=PublishSpeed(seconds=0.0),
    )
    return replace(plain, **changes)


def layout(**changes):
    plain = Layout(num_engines=1, num_learners=1, num_accelerators=2, num_steps=6, max_staleness=0)
    return replace(plain, **changes)


GENERATE = LENGTH * 0.01
UPDATE = P * N * (LENGTH + PROMPT) * 1e-3


def test_in_turns_a_step_is_generation_and_update():
    outcome = simulate(profile(publish=PublishSpeed(seconds=0.25)), scheduler(), layout())
    assert outcome.steps[-1].seconds == pytest.approx(6 * (GENERATE + UPDATE + 0.25))
    found = row(profile(), scheduler(), outcome, None)
    assert found.engine_idle_share == pytest.approx(1 - GENERATE / (GENERATE + UPDATE + 0.25))
    assert found.learner_idle_share == pytest.approx(1 - UPDATE / (GENERATE + UPDATE + 0.25))
    assert found.engine_occupancy == pytest.approx(P * N / 64)
    assert found.staleness_max == 0


FULL = EngineSpeed(
    max_num_seqs=P * N, step_seconds=0.01, sequence_seconds=0.0, prefill_token_seconds=0.0
)
"""With room for one batch at a time."""


@pytest.mark.parametrize("token_seconds", [1e-4, 1e-3, 3e-3])
def test_one_version_ahead_on_a_full_engine_a_step_is_the_longer_of_the_two(token_seconds):
    fast = profile(learner=LearnerSpeed(token_seconds=token_seconds), engine=FULL)
    update = P * N * (LENGTH + PROMPT) * token_seconds
    outcome = simulate(fast, scheduler(), layout(max_staleness=1), warm_up=2)
    found = row(fast, scheduler(), outcome, None)
    assert found.step_seconds == pytest.approx(max(GENERATE, update))
    assert found.learner_idle_share == pytest.approx(1 - update / max(GENERATE, update), abs=1e-9)
    assert found.engine_idle_share == pytest.approx(1 - GENERATE / max(GENERATE, update), abs=1e-9)
    assert found.staleness_max == 1


@pytest.mark.parametrize("token_seconds", [1e-4, 1e-3, 3e-3])
def test_with_room_for_two_batches_a_step_is_half_of_both_or_an_update(token_seconds):
    fast = profile(learner=LearnerSpeed(token_seconds=token_seconds))
    update = P * N * (LENGTH + PROMPT) * token_seconds
    outcome = simulate(fast, scheduler(), layout(max_staleness=1), warm_up=2)
    # Version v + 2 comes an update after v + 1, and a generation and an update after v.
    expected = max(update, (GENERATE + update) / 2)
    assert row(fast, scheduler(), outcome, None).step_seconds == pytest.approx(expected)


def test_endlessly_fast_learners_leave_the_engines_no_idle_time():
    fast = profile(learner=LearnerSpeed(token_seconds=0.0))
    found = row(fast, scheduler(), simulate(fast, scheduler(), layout()), None)
    assert found.step_seconds == pytest.approx(GENERATE)
    assert found.engine_idle_share == pytest.approx(0)
    assert found.learner_idle_share == pytest.approx(1)


def test_shared_cores_slow_both_down_while_both_compute():
    shared = profile(engine_slowdown=2.0, learner_slowdown=2.0, engine=FULL)
    outcome = simulate(shared, scheduler(), layout(max_staleness=1), warm_up=2)
    # Both want the cores at once; the one that is over first lets the other go.
    shorter, longer = sorted([GENERATE, UPDATE])
    expected = 2 * shorter + (longer - shorter)
    assert row(shared, scheduler(), outcome, None).step_seconds == pytest.approx(expected)
    alone = simulate(shared, scheduler(), layout())
    assert alone.steps[-1].seconds == pytest.approx(6 * (GENERATE + UPDATE))


@pytest.mark.parametrize(
    ("measured", "simulated", "expected"),
    [
        (False, False, (1.5, 3.0)),
        (True, True, (1.5, 3.0)),
        (False, True, (2.0, 3.0)),
        (True, False, (1.0, 1.0)),
    ],
)
def test_slowdowns_are_those_of_machines_that_are_shared_as_these(measured, simulated, expected):
    found = profile(engine_slowdown=1.5, learner_slowdown=3.0, colocated=measured)
    assert slowdowns(found, layout(colocated=simulated)) == expected


@pytest.mark.parametrize("slowed", ["engine", "learner"])
def test_one_side_may_be_slowed_down_alone(slowed):
    shared = profile(**{f"{slowed}_slowdown": 2.0}, engine=FULL)
    outcome = simulate(shared, scheduler(), layout(max_staleness=1), warm_up=2)
    # The other side goes at full speed; the slowed one loses half of what both compute.
    own, other = (GENERATE, UPDATE) if slowed == "engine" else (UPDATE, GENERATE)
    expected = 2 * own if 2 * own <= other else max(own + other / 2, other)
    assert row(shared, scheduler(), outcome, None).step_seconds == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_learners", "most"), [(1, 8), (2, 4), (3, 3), (4, 2), (8, 1), (64, 1)]
)
def test_learners_share_responses(num_learners, most):
    outcome = simulate(profile(), scheduler(), layout(num_learners=num_learners))
    assert outcome.steps[-1].update_seconds == pytest.approx(most * (LENGTH + PROMPT) * 1e-3)


@pytest.mark.parametrize("num_ranks", [2, 5, 16, 60])
def test_learners_share_responses_as_those_that_train_do(num_ranks):
    """Whatever the rows: of 40 rows, 16 learners have 2.5 each and not 3."""
    lengths = np.random.default_rng(0).lognormal(6, 0.6, 300).astype(np.int64)
    planned = plan_rows(lengths.tolist(), num_ranks, row_tokens=4096)
    fullest = max(sum(int(lengths[item]) for row in rows for item in row) for rows in planned)
    assert most_tokens(lengths, num_ranks) == pytest.approx(fullest, rel=0.03)


def test_every_optimiser_step_has_a_fullest_learner():
    """4 groups of two responses in 4 steps: a third learner has nothing to do."""
    for num_learners, most in ((1, 8), (2, 4), (3, 4)):
        steps = layout(num_learners=num_learners, num_minibatches=4)
        update = simulate(profile(), scheduler(), steps).steps[-1].update_seconds
        assert update == pytest.approx(most * (LENGTH + PROMPT) * 1e-3)


def test_an_all_reduce_costs_bytes_and_hops():
    speed = LearnerSpeed(
        token_seconds=0.0, reduce_bytes=100.0, reduce_bytes_per_second=50.0,
        reduce_latency_seconds=0.5,
    )  # fmt: skip
    parts = [np.array([100])] * 3
    assert speed.seconds(parts, 1) == 0
    assert speed.seconds(parts, 8) == pytest.approx(3 * (2 * 7 / 8 * 2 + 3 * 0.5))
    assert speed.seconds(parts, 8, reduces=False) == 0


def test_a_target_that_the_start_has_is_no_step_away():
    outcome = simulate(profile(), scheduler(), layout())
    for target, steps in ((0.4, 0), (0.5, 0)):
        found = row(profile(), scheduler(), outcome, target)
        assert found.steps_to_target == steps == found.hours_to_target
    assert row(profile(), scheduler(), outcome, 0.6).steps_to_target >= 1


def random_profile():
    return profile(
        lengths=ResponseLengths(log_sd=0.6, truncated_share=0.02),
        engine=EngineSpeed(
            max_num_seqs=4, step_seconds=0.01, sequence_seconds=1e-3, prefill_token_seconds=1e-4,
            failures_per_hour=100.0, restart_seconds=5.0,
        ),
        publish=PublishSpeed(seconds=0.1, engine_seconds=0.01, probe_seconds=0.1),
    )  # fmt: skip


def test_tokens_are_conserved_and_a_seed_repeats_itself():
    def run(seed):
        return simulate(
            random_profile(),
            scheduler(),
            layout(num_engines=3, max_staleness=2, seed=seed, max_retries=20, num_steps=12),
        )

    outcome = run(0)
    assert outcome.steps[-1].num_failures > 0
    generated = outcome.response_tokens + outcome.prefill_tokens
    assert generated == outcome.steps[-1].generated_tokens
    assert 1 <= max(step.staleness_max for step in outcome.steps) <= 2
    # Not by ==, for which two NaN differ.
    assert repr(run(0)) == repr(outcome)
    assert run(1).steps[-1].seconds != outcome.steps[-1].seconds


def test_failures_of_a_row_are_those_of_the_steps_that_count():
    warm_up, counted = 3, 6
    machine = {"num_engines": 3, "max_staleness": 2, "max_retries": 20}
    # Failing most of the time, so that there are failures before, between and after.
    failing = replace(
        random_profile(), engine=replace(random_profile().engine, failures_per_hour=2000.0)
    )
    outcome = simulate(failing, scheduler(), layout(num_steps=counted, **machine), warm_up=warm_up)
    found = row(failing, scheduler(), outcome, None)
    whole = simulate(failing, scheduler(), layout(num_steps=counted + 2 * warm_up, **machine)).steps
    first, last = whole[warm_up - 1], whole[warm_up + counted - 1]
    assert 0 < first.num_failures < last.num_failures < whole[-1].num_failures
    assert found.failures == last.num_failures - first.num_failures
    assert found.retries == last.num_retries - first.num_retries


def test_sizes_that_move_are_those_of_the_batches_simulated():
    sizing = Sized(alignment=1.0, least_group_size=2, most_group_size=8, most_change=1.5)
    moving = scheduler(
        sizing=sizing, advantage=LeaveOneOut(), group_size=8, tickets_per_step=4, thinning=KeepAll()
    )
    steps = simulate(profile(), moving, layout(num_steps=5)).steps
    generated = [step.generated_tokens for step in steps]
    own = [after - before for before, after in zip([0.0, *generated], generated, strict=False)]
    state, expected = sizing.initial_state(moving.first_sizes), []
    for _ in range(5):
        sizes = sizing.sizes(state)
        expected.append(sizes.tickets * (PROMPT + sizes.group_size * LENGTH))
        # By the price of tokens every response pays its prompt.
        state = sizing.updated(state, 0.0)
    assert own == pytest.approx(expected)


def test_the_law_of_learning_raises_pass_rates_and_staleness_costs():
    def gained(discount):
        law = LearningLaw(gain_logits=0.5, noise_responses=8.0, staleness_discount=discount)
        learning = replace(random_profile(), learning=law)
        return simulate(learning, scheduler(), layout(max_staleness=1)).steps[-1].gained_logits

    assert 0 < gained(0.5) < gained(0.0) < 6 * 0.5
    steps = simulate(random_profile(), scheduler(), layout()).steps
    assert steps[-1].pass_rate > steps[0].pass_rate > 0.5


def test_the_target_is_extrapolated_from_the_gain():
    certain = profile()
    outcome = simulate(certain, scheduler(), layout())
    gain = outcome.steps[-1].gained_logits / 6
    found = row(certain, scheduler(), outcome, 0.75)
    # From 1/2 to 3/4 are log 3 logits.
    assert found.steps_to_target == -(-1.0986123 // gain)
    assert found.accelerator_hours_to_target == pytest.approx(
        found.steps_to_target * found.step_seconds * 2 / 3600
    )


def test_4096_accelerators_are_simulated():
    engines, learners, colocated = split(4096, 0.25, 2)
    assert (engines, learners, colocated) == (1536, 1024, False)
    many = layout(
        num_engines=engines, num_learners=learners, num_accelerators=4096, num_steps=3,
        max_staleness=1,
    )  # fmt: skip
    config = scheduler(tickets_per_step=256, group_size=4)
    found = row(random_profile(), config, simulate(random_profile(), config, many), None)
    assert found.engine_idle_share > 0.8
