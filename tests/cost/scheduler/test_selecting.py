"""Which responses of a batch are trained on, and with which weights."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cost.advantages.within_group import GroupMean, GroupStandardised
from cost.aggregations import BatchTokenMean, ConstantLength
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws
from cost.thinning.priced import Priced
from cost.thinning.thinning import AdvantageOnly, CostAware, KeepAll, NonZero, Thinning
from cost.types import Feedback, Ticket
from tests.cost.play import select
from tests.cost.scheduler.playing import ALLOCATORS, Filter, Pilots, Player, assert_same, play


@dataclass(frozen=True, slots=True)
class Watch:
    """Keeps all, and notes how far the run is."""

    seen: ClassVar[list[float]] = []
    objective_preserving: ClassVar[bool] = True
    keeps_zero_advantage: ClassVar[bool] = True

    def thin(self, candidates, rng) -> Thinning:
        self.seen.append(candidates.progress)
        return KeepAll().thin(candidates, rng)


def test_the_thinning_is_told_how_far_the_run_is(make_scheduler, make_report):
    Watch.seen.clear()
    scheduler = make_scheduler(thinning=Watch())
    for batch, progress in enumerate((0.0, 0.25, 1.0)):
        reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
        select(scheduler, batch, reports, progress=progress)
    assert Watch.seen == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match=r"^progress must lie in \[0, 1\], got 1.5$"):
        select(scheduler, 2, reports, progress=1.5)


class Told(GroupMean):
    """Notes which groups are said to be in the statistics."""

    seen: ClassVar[list[list[bool]]] = []

    def advantages(self, groups):
        self.seen.append(groups.folded.tolist())
        return super().advantages(groups)


def test_advantages_are_told_which_groups_are_in_the_statistics(make_scheduler, make_report):
    scheduler = make_scheduler(advantage=Told(), tickets_per_step=2, max_staleness=2)
    drawn = [scheduler.draw(batch, 0) for batch in (0, 1)]
    reports = [[make_report(ticket) for ticket in draw.tickets] for draw in drawn]
    for report in reports[1]:
        scheduler.observe(report)

    def told(batch, epoch=0):
        selections = select(scheduler, batch, reports[batch], epoch=epoch)
        assert [one.ticket_id for one in selections] == [one.ticket_id for one in reports[batch]]
        return Told.seen[-1]

    assert told(0) == [False, False]
    scheduler.draw(2, 1)
    assert told(0, epoch=1) == [True, True]
    scheduler.draw(3, 2)
    # What is in the statistics is held as long as it may be selected from.
    assert told(1) == told(1, epoch=1) == [True, True]


def test_a_later_pass_teaches_nothing_and_was_not_generated_anew(make_scheduler, make_report):
    scheduler = make_scheduler(thinning=Priced())
    reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
    select(scheduler, 0, reports)
    plugs, before = scheduler.state_dict()["statistics"]["plugs"], scheduler.metrics()
    penalties = [np.linspace(0, 1, 4) for _ in reports]
    select(scheduler, 0, reports, epoch=1, penalties=penalties)
    np.testing.assert_equal(scheduler.state_dict()["statistics"]["plugs"], plugs)
    after = scheduler.metrics()
    assert after["cost/trained_responses"] > before["cost/trained_responses"] > 0
    uniform = [found["cost/uniform_generated_tokens_estimated"] for found in (before, after)]
    assert uniform[0] == uniform[1] > 0


def test_plain_grpo_weights_are_bit_equal_to_one(make_scheduler, make_report, make_groups):
    scheduler = make_scheduler(allocator=Uniform(draws=EpochDraws()), thinning=KeepAll())
    tickets, selections = play(scheduler, make_report, 5)
    assert {ticket.weight for ticket in tickets} == {1.0}
    for ticket, selection in zip(tickets, selections, strict=True):
        report = make_report(ticket)
        assert selection.keep.all() and set(selection.weight) == {1.0}
        expected = GroupStandardised().advantages(make_groups(report.rewards))
        assert selection.advantages.tolist() == expected.tolist()
        assert selection.factors.tolist() == (1 / report.lengths).tolist()
        assert selection.token_share == 1.0


def test_empty_groups_count_in_the_batch_and_carry_nothing(
    make_scheduler, make_report, empty_report
):
    scheduler = make_scheduler(thinning=KeepAll(), tickets_per_step=4)
    tickets = scheduler.draw(0, 0).tickets
    reports = [make_report(ticket) for ticket in tickets]
    reports[1] = empty_report(tickets[1])
    selections = select(scheduler, 0, reports)
    assert [len(selection.keep) for selection in selections] == [4, 0, 4, 4]
    metrics = scheduler.metrics()
    assert metrics["cost/tickets"] == 4 and metrics["cost/failed_tickets"] == 1
    empty = [empty_report(ticket) for ticket in scheduler.draw(1, 1).tickets]
    assert all(not s.keep.any() for s in select(scheduler, 1, empty))
    scheduler.draw(2, 2)


@pytest.mark.parametrize("thinning", [KeepAll(), CostAware(budget=1.0)])
def test_rewards_that_crashed_are_never_trained_on(make_scheduler, make_report, thinning):
    scheduler = make_scheduler(thinning=thinning, tickets_per_step=4)
    status, rewards = np.array([0, 2, 1, 0]), np.array([1.0, np.nan, np.nan, 0.0])
    tickets = scheduler.draw(0, 0).tickets
    reports = [make_report(t, status=status, rewards=rewards) for t in tickets]
    for selection in select(scheduler, 0, reports):
        assert selection.keep.tolist() == [True, False, False, True]
        assert selection.weight[1] == selection.weight[2] == 0
        assert selection.advantages[1] == 0


@pytest.mark.parametrize(
    "thinning",
    [KeepAll(), NonZero(), CostAware(budget=1.0), AdvantageOnly(budget=1.0), Priced()],
    ids=repr,
)
def test_masked_responses_are_compared_with_and_not_trained_on(
    make_scheduler, make_report, thinning
):
    """DAPO's overlong filtering: the loss alone leaves them out."""
    scheduler = make_scheduler(
        thinning=thinning, aggregation=BatchTokenMean(), tickets_per_step=2, max_staleness=1
    )
    given = {
        "rewards": np.array([1.0, 0.0, 1.0, 0.0]),
        "lengths": np.array([10, 128, 20, 128]),
        "status": np.array([0, 4, 0, 4]),
    }
    tickets = scheduler.draw(0, 0).tickets
    reports = [make_report(ticket, **given) for ticket in tickets]
    for selection in select(scheduler, 0, reports):
        # Of the trained ones alone the deviation would be 0, and so would the advantages.
        np.testing.assert_allclose(selection.advantages, [1, -1, 1, -1], atol=1e-5)
        assert selection.keep.tolist() == [True, False, True, False]
        assert selection.weight[[1, 3]].tolist() == [0.0, 0.0]
        # The mean is over the tokens of the loss: 2 groups of 4 and 2 x 30 tokens.
        assert selection.factors.tolist() == [2 * 4 / 60] * 4
    metrics = scheduler.metrics()
    assert metrics["cost/selectable_response_tokens"] == 60
    assert metrics["cost/truncated_rewards"] == 4
    # So it is where worth is learned: of these no gradient will come.
    for visit in scheduler._statistics._visits(list(zip(tickets, reports, strict=True))):
        np.testing.assert_allclose(visit.advantages, [1, 0, 1, 0], atol=1e-5)
        assert visit.usable.all()


def test_epochs_thin_anew_and_repeat_exactly(make_scheduler, make_report):
    scheduler = make_scheduler(
        thinning=CostAware(budget=0.3), aggregation=ConstantLength(), tickets_per_step=16
    )
    reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
    first, again = select(scheduler, 0, reports), select(scheduler, 0, reports)
    second = select(scheduler, 0, reports, epoch=1)
    kept = [np.concatenate([s.keep for s in one]) for one in (first, again, second)]
    assert (kept[0] == kept[1]).all() and (kept[0] != kept[2]).any()
    assert first[0].factors.tolist() == second[0].factors.tolist() == again[0].factors.tolist()


def test_keep_probabilities_average_out_over_seeds(make_scheduler, make_report):
    """E keep * weight = ticket weight for every response with an advantage."""
    total, count = 0.0, 300
    for seed in range(count):
        scheduler = make_scheduler(
            seed=0, thinning=CostAware(budget=0.6, floor=0.3), tickets_per_step=4
        )
        reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
        selections = select(scheduler, 0, reports, epoch=seed)
        total = total + np.concatenate([s.keep * s.weight for s in selections])
    chosen = np.concatenate([s.advantages for s in selections]) != 0
    np.testing.assert_allclose((total / count)[chosen], 1.0, atol=5 * np.sqrt(2.4 / count))


def test_constant_divisor_comes_from_earlier_batches(make_scheduler, make_report):
    scheduler = make_scheduler(
        aggregation=ConstantLength(), allocator=Uniform(), tickets_per_step=2
    )
    batches = [scheduler.draw(batch, 0).tickets for batch in range(3)]
    factors = []
    for batch, length in enumerate((20, 40, 60)):
        reports = [make_report(ticket, lengths=np.full(4, length)) for ticket in batches[batch]]
        factors.append(select(scheduler, batch, reports)[0].factors[0])
    expected = [1 / 128, 1 / 20, (0.9 + 1) / (0.9 * 20 + 40)]
    np.testing.assert_allclose(factors, expected)


def test_an_open_batch_is_not_selected(make_scheduler, make_report):
    player = Player(make_scheduler(allocator=Filter()), make_report)
    player.round()
    with pytest.raises(ValueError, match=r"batch must be complete and not before 0, .* got 0"):
        select(player.scheduler, 0, list(player.reports.values()))
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 0"):
        player.scheduler.learned(0, Feedback(1.0, 1.0))


@pytest.mark.parametrize("allocator", [Filter(round_size=11), Pilots()], ids=repr)
def test_select_takes_one_attempt_of_each_member(make_scheduler, make_report, allocator):
    player = Player(make_scheduler(allocator=allocator), make_report)
    while player.num_drawn == 0:
        player.round()
    assert len(player.reports) > len(player.members[0]) == 8
    for count in (0, 7, 9):
        with pytest.raises(ValueError, match=f"one for each of the 8 members .* got {count}"):
            player.scheduler.select(0, [0] * count)
    with pytest.raises(ValueError, match=r"of batch 0 reported last, \[0, .*, got \[1, 0, "):
        player.scheduler.select(0, [1] + [0] * 7)
    found = player.scheduler.select(0, [0] * 8)
    assert tuple(selection.ticket_id for selection in found) == player.members[0]


@pytest.mark.parametrize("late", [False, True], ids=["in order", "late"])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_the_attempt_that_is_trained_on_is_the_one_that_counts(
    make_scheduler, make_report, allocator, late
):
    """A run in which tickets were tried twice equals one in which only the last try ever was."""

    def retried(ticket, **changes):
        return make_report(ticket, **changes, attempt=1 if ticket.ticket_id % 3 == 0 else 0)

    scheduler = make_scheduler(allocator=allocator, max_staleness=2)
    once = Player(scheduler, retried, lag=1)
    twice = Player(make_scheduler(allocator=allocator, max_staleness=2), retried, lag=1)
    observe, wasted = twice.scheduler.observe, []

    def observe_both(report):
        lost = make_report(twice_ticket(report), seed=9, attempt=0)
        tries = [lost, report] if report.attempt else [report]
        wasted.extend(tries[:-1])
        for one in reversed(tries) if late else tries:
            observe(one)

    def twice_ticket(report):
        return Ticket(report.ticket_id, report.prompt_index, report.num_responses, 1.0, 1.0, 128)

    twice.scheduler.observe = observe_both
    once.play(5)
    twice.play(5)
    assert_same(once, twice)
    expected, found = once.scheduler.metrics(), twice.scheduler.metrics()
    tokens = sum(report.generated_tokens for report in wasted)
    assert found["cost/lost_attempts"] == len(wasted) > 0
    assert found["cost/wasted_tokens"] == tokens
    assert found["cost/generated_tokens"] == expected["cost/generated_tokens"] + tokens
    changed = {"lost_attempts", "wasted_tokens", "generated_tokens", "generated_response_tokens"}
    for key in set(expected) - {f"cost/{name}" for name in changed}:
        assert found[key] == pytest.approx(expected[key], nan_ok=True, abs=0), key
