"""The scheduler as its callers see it: determinism, one door for state, honest statistics."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cost.advantages import GroupStandardised
from cost.aggregations import ConstantLength
from cost.allocators import SquareRoot, Uniform
from cost.draws import EpochDraws, IndependentDraws
from cost.ledger import METRICS
from cost.selection import uniform_reward_mean
from cost.thinning import CostAware, KeepAll
from cost.types import Ticket
from cost.utilities import PassRateVariance

ALLOCATORS = [SquareRoot(), Uniform(draws=EpochDraws()), Uniform(draws=IndependentDraws())]


def play(scheduler, make_report, num_steps, order=list, batch=8):
    """Run synchronous steps; return every ticket and selection."""
    tickets, selections = [], []
    for _ in range(num_steps):
        drawn = scheduler.draw(batch, scheduler.next_ticket_id)
        reports = [make_report(ticket) for ticket in drawn]
        for report in order(reports):
            scheduler.observe(report)
        tickets += drawn
        selections += scheduler.select(reports)
    return tickets, selections


def assert_same(one, other):
    assert one[0] == other[0]
    for left, right in zip(one[1], other[1], strict=True):
        for name in left.__slots__:
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_order_of_reports_does_not_matter(make_scheduler, make_report, allocator):
    rng = np.random.default_rng(0)
    orders = [list, reversed, lambda r: [r[i] for i in rng.permutation(len(r))]]
    schedulers = [make_scheduler(allocator=allocator) for _ in orders]
    runs = [play(s, make_report, 6, o) for s, o in zip(schedulers, orders, strict=True)]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])
    assert schedulers[0].metrics() == schedulers[1].metrics() == schedulers[2].metrics()


def test_reports_that_arrive_early_are_not_used_early(make_scheduler, make_report):
    eager, patient = make_scheduler(), make_scheduler()
    for scheduler in (eager, patient):
        scheduler.draw(8, 0)
    tickets = eager.draw(8, 0)
    for ticket in tickets:
        eager.observe(make_report(ticket))
    patient.draw(8, 0)
    assert eager.draw(8, 0) == patient.draw(8, 0)


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_state_round_trip_continues_the_same_run(make_scheduler, make_report, allocator):
    whole = make_scheduler(allocator=allocator, aggregation=ConstantLength())
    play(whole, make_report, 4)
    state = whole.state_dict()
    expected = play(whole, make_report, 4)
    resumed = make_scheduler(allocator=allocator, aggregation=ConstantLength())
    resumed.load_state_dict(state)
    assert_same(expected, play(resumed, make_report, 4))
    assert resumed.metrics() == whole.metrics()


def test_state_is_plain_data(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 2)
    scheduler.draw(3, 0)
    json.dumps(scheduler.state_dict(), default=lambda array: array.tolist())


def test_state_of_another_run_is_refused(make_scheduler):
    state = make_scheduler(seed=1).state_dict()
    with pytest.raises(ValueError, match=r"state\.seed must be 0 as configured, got 1"):
        make_scheduler(seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"state\.num_prompts must be 21 as configured, got 20"):
        make_scheduler(num_prompts=21, seed=1).load_state_dict(state)


def test_tickets_in_flight_at_a_checkpoint_are_reissued(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 2)
    in_flight = scheduler.draw(8, 16)
    scheduler.observe(make_report(in_flight[0]))
    resumed = make_scheduler()
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.reissue(16) == in_flight
    rerun = [make_report(ticket, seed=5) for ticket in in_flight]
    assert len(resumed.select(rerun)) == 8
    resumed.draw(8, 24)


def test_missing_reports_are_named_and_nothing_changes(make_scheduler, make_report):
    scheduler, other = make_scheduler(), make_scheduler()
    tickets = scheduler.draw(8, 0)
    assert other.draw(8, 0) == tickets
    for ticket in tickets[:-2]:
        scheduler.observe(make_report(ticket))
    with pytest.raises(ValueError, match=r"2 are missing: \[6, 7\]"):
        scheduler.draw(8, 8)
    assert scheduler.missing(8) == [6, 7]
    for ticket in tickets[-2:]:
        scheduler.observe(make_report(ticket))
    for ticket in tickets:
        other.observe(make_report(ticket))
    assert scheduler.draw(8, 8) == other.draw(8, 8)


def test_plain_grpo_weights_are_bit_equal_to_one(make_scheduler, make_report):
    scheduler = make_scheduler(allocator=Uniform(draws=EpochDraws()), thinning=KeepAll())
    tickets, selections = play(scheduler, make_report, 5)
    assert {ticket.weight for ticket in tickets} == {1.0}
    for ticket, selection in zip(tickets, selections, strict=True):
        report = make_report(ticket)
        assert selection.keep.all() and set(selection.weight) == {1.0}
        expected = GroupStandardised().advantages(report.rewards, np.ones(4, bool))
        assert selection.advantages.tolist() == expected.tolist()
        assert selection.factors.tolist() == (1 / report.lengths).tolist()


def test_learns_to_draw_what_is_cheap_and_undecided(make_scheduler, make_report):
    """Even prompts are short; prompts 0 to 9 always pass, the others half of the time."""
    scheduler = make_scheduler(allocator=SquareRoot(floor=0.1), utility=PassRateVariance())
    rng = np.random.default_rng(0)
    for _ in range(60):
        tickets = scheduler.draw(20, scheduler.next_ticket_id)
        for t in tickets:
            lengths = np.full(4, 10 if t.prompt_index % 2 == 0 else 100)
            rewards = np.ones(4) if t.prompt_index < 10 else rng.permutation([1.0, 1.0, 0.0, 0.0])
            scheduler.observe(make_report(t, lengths=lengths, rewards=rewards))
    scheduler.draw(20, scheduler.next_ticket_id)
    distribution = scheduler.distribution()
    p = distribution.probabilities
    assert p[10::2].min() > p[11::2].max() > p[1:10:2].max()
    assert p[10::2].min() > p[:10:2].max()
    assert distribution.expected_length_ratio < 0.9
    assert 0.05 < distribution.total_variation_from_uniform < 1
    assert distribution.lengths[::2].max() < 20 and distribution.lengths[1::2].min() > 80


def test_empty_groups_count_in_the_batch_and_carry_nothing(
    make_scheduler, make_report, empty_report
):
    scheduler = make_scheduler(thinning=KeepAll())
    tickets = scheduler.draw(4, 0)
    reports = [make_report(ticket) for ticket in tickets]
    reports[1] = empty_report(tickets[1])
    selections = scheduler.select(reports)
    assert [len(selection.keep) for selection in selections] == [4, 0, 4, 4]
    metrics = scheduler.metrics()
    assert metrics["cost/tickets"] == 4 and metrics["cost/failed_tickets"] == 1
    scheduler.draw(4, 4)
    empty = [empty_report(replace(t, ticket_id=t.ticket_id)) for t in scheduler.draw(4, 4)]
    assert all(not s.keep.any() for s in scheduler.select(empty))


@pytest.mark.parametrize("thinning", [KeepAll(), CostAware(budget=1.0)])
def test_rewards_that_crashed_are_never_trained_on(make_scheduler, make_report, thinning):
    scheduler = make_scheduler(thinning=thinning)
    status, rewards = np.array([0, 2, 1, 0]), np.array([1.0, np.nan, np.nan, 0.0])
    reports = [make_report(t, status=status, rewards=rewards) for t in scheduler.draw(4, 0)]
    for selection in scheduler.select(reports):
        assert selection.keep.tolist() == [True, False, False, True]
        assert selection.weight[1] == selection.weight[2] == 0
        assert selection.advantages[1] == 0


def test_epochs_thin_anew_and_repeat_exactly(make_scheduler, make_report):
    scheduler = make_scheduler(thinning=CostAware(budget=0.3), aggregation=ConstantLength())
    reports = [make_report(ticket) for ticket in scheduler.draw(16, 0)]
    first, again = scheduler.select(reports), scheduler.select(reports)
    second = scheduler.select(reports, epoch=1)
    kept = [np.concatenate([s.keep for s in one]) for one in (first, again, second)]
    assert (kept[0] == kept[1]).all() and (kept[0] != kept[2]).any()
    assert first[0].factors.tolist() == second[0].factors.tolist() == again[0].factors.tolist()


def test_keep_probabilities_average_out_over_seeds(make_scheduler, make_report):
    """E keep * weight = ticket weight for every response with an advantage."""
    total, count = 0.0, 300
    for seed in range(count):
        scheduler = make_scheduler(seed=0, thinning=CostAware(budget=0.6, floor=0.3))
        reports = [make_report(ticket) for ticket in scheduler.draw(4, 0)]
        selections = scheduler.select(reports, epoch=seed)
        total = total + np.concatenate([s.keep * s.weight for s in selections])
    chosen = np.concatenate([s.advantages for s in selections]) != 0
    np.testing.assert_allclose((total / count)[chosen], 1.0, atol=5 * np.sqrt(2.4 / count))


def test_constant_divisor_comes_from_earlier_batches(make_scheduler, make_report):
    scheduler = make_scheduler(aggregation=ConstantLength(), allocator=Uniform())
    batches = [scheduler.draw(2, 0), scheduler.draw(2, 0), scheduler.draw(2, 0)]
    factors = []
    for batch, length in zip(batches, (20, 40, 60), strict=True):
        reports = [make_report(ticket, lengths=np.full(4, length)) for ticket in batch]
        factors.append(scheduler.select(reports)[0].factors[0])
    expected = [1 / 128, 1 / 20, (0.9 + 1) / (0.9 * 20 + 40)]
    np.testing.assert_allclose(factors, expected)


def test_batches_do_not_go_back(make_scheduler, make_report):
    scheduler = make_scheduler()
    reports = [make_report(ticket) for ticket in scheduler.draw(4, 0)]
    scheduler.select(reports[2:])
    with pytest.raises(ValueError, match=r"reports must not start before ticket 2 .* got 0"):
        scheduler.select(reports[:2])
    assert scheduler.select([]) == []


def test_prompts_can_be_added(make_scheduler, make_report):
    scheduler = make_scheduler(num_prompts=4)
    play(scheduler, make_report, 2)
    scheduler.add_prompts(np.array([15, 16]), ["source0", "new"])
    assert len(scheduler.distribution().probabilities) == 6
    tickets, _ = play(scheduler, make_report, 5)
    assert {ticket.prompt_index for ticket in tickets} == set(range(6))


def test_tickets_are_forgotten_in_time(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 10)
    state = scheduler.state_dict()["book"]
    assert len(state["tickets"]["ticket_id"]) <= 16


def test_metrics_are_described_and_finite(make_scheduler, make_report):
    scheduler = make_scheduler()
    assert set(scheduler.metrics()) <= set(METRICS)
    play(scheduler, make_report, 3)
    metrics = scheduler.metrics()
    assert set(metrics) == set(METRICS)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("count", [0, -1])
def test_refuses_to_draw_nothing(make_scheduler, count):
    with pytest.raises(ValueError, match="num_tickets must be positive, got"):
        make_scheduler().draw(count, 0)


def test_the_reward_shown_undoes_the_draw_and_skips_what_has_none(make_report, empty_report):
    tickets = [Ticket(i, 0, 2, 0.5, weight, 8) for i, weight in enumerate((0.5, 2.0, 9.0))]
    reports = [
        make_report(tickets[0], rewards=np.array([1.0, 1.0])),
        make_report(tickets[1], rewards=np.array([0.0, 1.0])),
        empty_report(tickets[2]),
    ]
    assert uniform_reward_mean(tickets, reports) == pytest.approx((0.5 * 1 + 2 * 0.5) / 2.5)
