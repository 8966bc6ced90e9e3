"""sGPO: profile once, bucket by pass rate, train from easy to hard with equal responses a batch."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cost.draws.allocators.sgpo import DROPPED, UNSOLVED, Sgpo
from cost.draws.allocators.types import Estimates
from cost.prompts import prompt_pool
from tests.cost.play import select

FAST = {"profile_tickets": 8, "unsolved_share": 1.0}


def rates_report(make_report, rates, learned=None):
    """Exactly rate * n of a prompt's n responses pass, rounded up.

    `learned(ticket)` says where training has raised a rate to 1 or kept it.
    """

    def report(ticket):
        size = ticket.num_samples
        rate = rates[ticket.prompt_index]
        if ticket.trainable and learned is not None and learned(ticket):
            rate = 1.0
        return make_report(ticket, rewards=(np.arange(size) < np.ceil(rate * size)).astype(float))

    return report


def group_sizes(batches):
    return [batch.members[0].num_samples for batch in batches]


def test_boundaries_of_the_buckets():
    rates = np.array([0, 1, 2, 3, 4, 6, 7, 8]) / 8
    rng = np.random.default_rng(0)
    sizes = Sgpo(unsolved_share=1.0).group_sizes_of(rates, rng).tolist()
    assert sizes == [UNSOLVED, 8, 4, 2, 2, 2, DROPPED, DROPPED]
    sizes = Sgpo(unsolved_share=0.0).group_sizes_of(rates, rng).tolist()
    assert sizes[0] == DROPPED
    # Rates that are no eighths, and other largest sizes.
    rates = np.array([1e-3, 0.0624, 0.0626, 0.126, 0.2501])
    assert Sgpo().group_sizes_of(rates, rng).tolist() == [8, 8, 8, 4, 2]
    assert Sgpo(max_group_size=16).group_sizes_of(rates, rng).tolist() == [16, 16, 8, 4, 2]
    assert Sgpo(max_group_size=2).group_sizes_of(rates, rng).tolist() == [2] * 5


def test_unsolved_prompts_are_kept_at_random_and_by_seed():
    kept = [
        (Sgpo().group_sizes_of(np.zeros(1000), np.random.default_rng(seed)) == UNSOLVED)
        for seed in (1, 1, *range(2, 40))
    ]
    assert (kept[0] == kept[1]).all() and (kept[0] != kept[2]).any()
    counts = np.array([keep.sum() for keep in kept[1:]])
    assert abs(counts.mean() - 100) < 5 * np.sqrt(90 / len(counts))
    assert counts.std() == pytest.approx(np.sqrt(90), rel=0.5)


@pytest.fixture
def sgpo_scheduler(make_scheduler):
    def build(num_prompts, allocator=None, **changes):
        settings = {"group_size": 8, "tickets_per_step": 4} | changes
        return make_scheduler(num_prompts, allocator=allocator or Sgpo(**FAST), **settings)

    return build


def test_the_profile_comes_first_and_is_counted(sgpo_scheduler, run_batches, make_report):
    rates = np.resize([0.5, 1.0, 0.125], 20)
    scheduler = sgpo_scheduler(20)
    (batch,) = run_batches(scheduler, rates_report(make_report, rates), 1)
    assert [len(drawn.tickets) for drawn in batch.rounds] == [8, 8, 4, 16]
    assert [ticket.prompt_index for ticket in batch.pilots] == list(range(20))
    assert {ticket.num_samples for ticket in batch.pilots} == {8}
    assert {ticket.probability for ticket in batch.pilots} == {1 / 20}
    assert batch.members == batch.rounds[-1].tickets
    metrics = scheduler.metrics()
    tokens = sum(batch.reports[t.ticket_id].generated_tokens for t in batch.pilots)
    assert metrics["cost/pilot_tickets"] == 20 and metrics["cost/pilot_tokens"] == tokens
    assert metrics["cost/filtered_tickets"] == 0
    later = run_batches(scheduler, rates_report(make_report, rates), 3, first_batch=1)
    assert all(len(played.rounds) == 1 and not played.pilots for played in later)
    assert scheduler.metrics()["cost/pilot_tickets"] == 20


def test_stages_ascend_with_constant_responses(sgpo_scheduler, run_batches, make_report):
    """4 prompts a bucket, 4 dropped, 4 unsolved; constant pass rates end each stage."""
    rates = np.repeat([0.125, 0.5, 1.0, 0.25, 0.0], 4)
    scheduler = sgpo_scheduler(20)
    batches = run_batches(scheduler, rates_report(make_report, rates), 9)
    # 8 prompts a stage and 16, 8, 4 tickets a batch: a pass takes 1, 1, 2 batches; two end a stage.
    assert group_sizes(batches) == [2, 2, 4, 4, 8, 8, 8, 8, 8]
    drawn = {2: {4, 5, 6, 7}, 4: {12, 13, 14, 15}, 8: {0, 1, 2, 3}}
    for batch in batches:
        size = batch.members[0].num_samples
        assert [t.num_samples for t in batch.members] == [size] * (32 // size)
        assert {t.prompt_index for t in batch.members} <= drawn[size] | {16, 17, 18, 19}
        assert {t.weight for t in batch.members} == {1.0}
        assert {t.probability for t in batch.members} == {1 / 8}
    last = [t.prompt_index for batch in batches[4:6] for t in batch.members]
    assert sorted(last) == sorted(drawn[8] | {16, 17, 18, 19}), "a pass meets each once"
    p = scheduler.distribution().probabilities
    assert p[[0, 1, 2, 3, 16, 17, 18, 19]].tolist() == [1 / 8] * 8 and p.sum() == 1


@pytest.mark.parametrize(("patience", "num_easy"), [(1, 2), (3, 10)])
def test_stage_goes_on_while_the_pass_rate_rises(
    sgpo_scheduler, run_batches, make_report, patience, num_easy
):
    """A batch of 16 tickets makes a pass; every third batch one more of the 4 prompts is solved."""
    drawn = []

    def learned(ticket):
        drawn.append(ticket)
        return ticket.prompt_index < (len(drawn) - 1) // 16 // 3

    scheduler = sgpo_scheduler(6, Sgpo(**FAST, patience=patience))
    report = rates_report(make_report, [0.5] * 4 + [0.125] * 2, learned)
    batches = run_batches(scheduler, report, 10)
    assert group_sizes(batches) == [2] * num_easy + [8] * (10 - num_easy)


def test_stop_rule(make_visit):
    """Means of passes .5 .505 .52 .51 with a gain of .01: the third is better, the fourth ends."""
    pool = prompt_pool(np.full(3, 9), ["a"] * 3, max_tokens=99)
    allocator = Sgpo(patience=1, min_gain=0.01)
    sizes = np.array([2, 2, 4], dtype=np.int16)
    start = replace(
        allocator.initial_state(pool), group_sizes=sizes, group_size=2, num_tickets=50,
        first_ticket=10,
    )  # fmt: skip

    def after(state, *passes, ticket=10):
        for rate in passes:
            visits = [make_visit(k, [5, 5], rewards=[rate, rate]) for k in (0, 1)]
            visits = [replace(v, report=replace(v.report, ticket_id=ticket)) for v in visits]
            state = allocator.update(state, pool, visits)
        return state.group_size

    assert after(start, 0.5) == 2
    assert after(start, 0.5, 0.505) == 4
    assert after(start, 0.5, 0.52) == 2
    assert after(start, 0.5, 0.52, 0.51) == 4
    assert after(start, 0.5, 0.5, 0.5, ticket=9) == 2, "pilots and earlier stages do not count"
    allocator = replace(allocator, min_gain=0.25)
    assert after(start, 0.5, 0.75) == 4, "a pass is better by more than the gain"
    allocator = replace(allocator, min_gain=0.01)
    patient = replace(allocator, patience=2)
    allocator = patient
    assert after(start, 0.5, 0.505) == 2
    assert after(start, 0.5, 0.505, 0.512) == 2, "small gains add up within the patience"
    assert after(start, 0.5, 0.505, 0.509) == 4
    last = replace(start, group_size=4)
    assert after(last, *[0.5] * 9) == 4, "the last stage goes on"


def test_a_pass_may_take_several_folds(make_visit):
    pool = prompt_pool(np.full(4, 9), ["a"] * 4, max_tokens=99)
    allocator = Sgpo()
    state = replace(
        allocator.initial_state(pool), group_size=2, num_tickets=9,
        group_sizes=np.array([2, 2, 2, 8], dtype=np.int16),
    )  # fmt: skip
    unusable = replace(make_visit(0, [5, 5]), usable=np.zeros(2, bool))
    for number in range(6):
        assert state.group_size == 2 and state.num_visits == number % 3
        state = allocator.update(state, pool, [make_visit(0, [5, 5]), unusable])
    assert state.group_size == 8 and state.num_visits == 0
    partly = make_visit(3, [5, 5], [np.nan, 1.0])
    state = allocator.update(replace(state, first_ticket=0), pool, [partly])
    assert state.best_pass_rate == 1.0


def test_late_visits_of_an_earlier_stage_do_not_count(make_scheduler, make_report):
    """Staleness 2: a stage's first batches are folded with those of the stage before."""
    rates = np.repeat([0.5, 0.125], 4)
    scheduler = make_scheduler(
        8, allocator=Sgpo(**FAST), group_size=8, tickets_per_step=4, max_staleness=2
    )
    report = rates_report(make_report, rates)
    sizes = []
    for batch in range(9):
        drawn = None
        while drawn is None or drawn.members is None:
            drawn = scheduler.draw(batch, max(0, batch - 2))
            for ticket in drawn.tickets:
                scheduler.observe(report(ticket))
        select(scheduler, batch, [report(ticket) for ticket in drawn.tickets])
        sizes.append(drawn.tickets[0].num_samples)
    assert sizes == [2] * 4 + [8] * 5
    state = scheduler.state_dict()["statistics"]["plugs"]["allocator"]
    # Pilots 8, then 4 batches of 16: the stage begins at ticket 72; folded of it: batches 4 to 6.
    assert state["first_ticket"] == 72 and state["best_pass_rate"] == pytest.approx(1 / 8)


def test_empty_buckets_are_left_out(sgpo_scheduler, run_batches, make_report):
    rates = np.array([1.0, 0.125, 0.125, 0.0])
    scheduler = sgpo_scheduler(4)
    batches = run_batches(scheduler, rates_report(make_report, rates), 3)
    assert group_sizes(batches) == [8, 8, 8]
    assert {t.prompt_index for batch in batches for t in batch.members} == {1, 2, 3}


def test_only_unsolved_prompts_are_trained_on_with_the_largest_group(
    sgpo_scheduler, run_batches, make_report
):
    batches = run_batches(sgpo_scheduler(1), rates_report(make_report, [0.0]), 3)
    assert group_sizes(batches) == [8, 8, 8]


@pytest.mark.parametrize(("group_size", "num_groups"), [(2, 1), (8, 1), (18, 2)])
def test_a_batch_has_a_group_however_few_responses_it_may_have(
    sgpo_scheduler, run_batches, make_report, group_size, num_groups
):
    scheduler = sgpo_scheduler(2, tickets_per_step=1, group_size=group_size)
    for batch in run_batches(scheduler, rates_report(make_report, [0.125] * 2), 2):
        assert [ticket.num_samples for ticket in batch.members] == [8] * num_groups


def test_a_profile_that_leaves_nothing_is_refused(sgpo_scheduler, run_batches, make_report):
    scheduler = sgpo_scheduler(3, Sgpo(unsolved_share=0.0))
    message = r"allocator\.drop_above and allocator\.unsolved_share must leave .* 3 prompts"
    with pytest.raises(ValueError, match=message):
        run_batches(scheduler, rates_report(make_report, [1.0, 0.0, 0.875]), 1)


def test_a_failed_profile_counts_as_unsolved(
    sgpo_scheduler, run_batches, make_report, empty_report
):
    solved = rates_report(make_report, [0.5] * 6)

    def report(ticket):
        if not ticket.trainable and ticket.prompt_index == 4:
            return empty_report(ticket)
        return solved(ticket)

    scheduler = sgpo_scheduler(6)
    batches = run_batches(scheduler, report, 2)
    state = scheduler.state_dict()["statistics"]["plugs"]["allocator"]
    assert state["group_sizes"].tolist() == [2, 2, 2, 2, UNSOLVED, 2]
    assert all(len(batch.members) == 16 for batch in batches)


def test_state_round_trip_anywhere(sgpo_scheduler, run_batches, make_report):
    """Between the rounds of the profile, and between batches; as plain data."""
    rates = np.resize([0.5, 0.25, 0.125, 0.0, 1.0], 20)
    report = rates_report(make_report, rates)
    whole = sgpo_scheduler(20, Sgpo(profile_tickets=8, unsolved_share=0.5))
    for ticket in whole.draw(0, 0).tickets:
        whole.observe(report(ticket))
    json.dumps(whole.state_dict(), default=lambda array: array.tolist())

    def resumed():
        other = sgpo_scheduler(20, Sgpo(profile_tickets=8, unsolved_share=0.5))
        other.load_state_dict(whole.state_dict())
        return other

    other = resumed()
    expected = run_batches(whole, report, 4)
    again = run_batches(other, report, 4)
    assert [batch.tickets for batch in expected] == [batch.tickets for batch in again]
    other = resumed()
    expected = run_batches(whole, report, 4, first_batch=4)
    again = run_batches(other, report, 4, first_batch=4)
    assert [batch.tickets for batch in expected] == [batch.tickets for batch in again]


def test_shares_are_uniform_until_there_is_a_stage(make_visit, pool):
    nothing = np.ones(4)
    estimates = Estimates(nothing, nothing, nothing, nothing)
    allocation = Sgpo().allocate(estimates, Sgpo().initial_state(pool))
    assert allocation.probabilities.tolist() == [0.25] * 4
    assert allocation.weights.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile_samples": 0}, r"allocator\.profile_samples must be at least 1, got 0"),
        ({"profile_tickets": 0}, r"allocator\.profile_tickets must be at least 1, got 0"),
        ({"patience": 0}, r"allocator\.patience must be at least 1, got 0"),
        ({"drop_above": 0.0}, r"allocator\.drop_above must lie in \(0, 1\], got 0\.0"),
        ({"unsolved_share": 1.5}, r"allocator\.unsolved_share must lie in \[0, 1\], got 1\.5"),
        ({"min_gain": -1.0}, r"allocator\.min_gain must lie in \[0, 1\], got -1\.0"),
        ({"max_group_size": 6}, r"allocator\.max_group_size must be a power of two .* got 6"),
        ({"max_group_size": 1}, r"allocator\.max_group_size must be a power of two .* got 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Sgpo(**changes)
