"""Rounds and batches: what is asked for before the next, what is carried, what makes a batch."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cost.aggregations import ConstantLength
from cost.draws.allocators.drawn import draw_round
from cost.draws.allocators.types import Complete
from cost.thinning.thinning import KeepAll
from cost.types import Draw, Feedback
from tests.cost.play import select
from tests.cost.scheduler.playing import Filter, LateNorms, Pilots, Player


def test_missing_reports_are_named_and_nothing_changes(make_scheduler, make_report):
    scheduler, other = make_scheduler(), make_scheduler()
    tickets = scheduler.draw(0, 0).tickets
    assert other.draw(0, 0).tickets == tickets
    for ticket in tickets[:-2]:
        scheduler.observe(make_report(ticket))
    with pytest.raises(ValueError, match=r"before 2 tickets are reported: \[6, 7\]"):
        scheduler.draw(1, 1)
    assert scheduler.drawing.awaited(1, 1) == [6, 7]
    for ticket in tickets[-2:]:
        scheduler.observe(make_report(ticket))
    for ticket in tickets:
        other.observe(make_report(ticket))
    assert scheduler.draw(1, 1) == other.draw(1, 1)


def test_a_round_waits_for_the_reports_of_the_one_before(make_scheduler, make_report):
    one = Player(make_scheduler(allocator=Filter()), make_report)
    other = Player(make_scheduler(allocator=Filter()), make_report)
    tickets = one.scheduler.draw(0, 0).tickets
    for ticket in tickets[1:-1]:
        one.scheduler.observe(make_report(ticket))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"batch 0 .* before 2 tickets .*: \[0, 5\]"):
            one.scheduler.draw(0, 0)
    assert one.scheduler.drawing.awaited(0, 0) == [0, 5]
    for ticket in (tickets[0], tickets[-1]):
        one.scheduler.observe(make_report(ticket))
    assert other.round().tickets == tickets
    assert one.scheduler.draw(0, 0) == other.scheduler.draw(0, 0)


def test_a_round_waits_for_the_gradient_norms_it_asked_for(make_scheduler, make_report):
    scheduler = make_scheduler(allocator=Pilots())
    drawn = scheduler.draw(0, 0)
    assert drawn.gradient_norms and drawn.members is None
    assert {(t.trainable, t.num_samples) for t in drawn.tickets} == {(False, 2)}
    for ticket in drawn.tickets:
        scheduler.observe(make_report(ticket))
    norms = {t.ticket_id: np.ones(2) for t in drawn.tickets}
    with pytest.raises(ValueError, match=r"gradient norms must be given .* tickets \[6, 7\]"):
        scheduler.draw(0, 0, {key: norms[key] for key in range(6)})
    final = scheduler.draw(0, 0, {key: norms[key] for key in (6, 7)})
    assert final.members == tuple(range(8, 16)) and not final.gradient_norms
    assert len({ticket.num_samples for ticket in final.tickets}) > 1
    assert all(ticket.trainable for ticket in final.tickets)
    with pytest.raises(ValueError, match=r"ticket_id must name a ticket in \[0, 16\), got 16"):
        scheduler.draw(1, 0, {16: np.ones(2)})
    with pytest.raises(ValueError, match=r"finite and not negative, got -1.0 for ticket 0"):
        scheduler.draw(1, 0, {0: np.array([1.0, -1.0])})


def test_norms_are_asked_of_the_rounds_that_want_them_alone(make_scheduler, make_report):
    player = Player(make_scheduler(allocator=LateNorms()), make_report).play(2)
    assert [drawn.gradient_norms for drawn in player.draws] == [False, True, False] * 2
    assert player.members == {0: (0, 2, 4), 1: (8, 10, 12)}


def test_batches_are_drawn_one_after_the_other(make_scheduler, make_report):
    scheduler = make_scheduler(allocator=Filter())
    with pytest.raises(ValueError, match=r"batch must be 0, .* got 1"):
        scheduler.draw(1, 0)
    player = Player(scheduler, make_report)
    assert player.round().members is None
    with pytest.raises(ValueError, match=r"batch must be 0, .* got 1"):
        scheduler.draw(1, 0)
    while player.num_drawn == 0:
        player.round()
    for batch in (0, 2):
        with pytest.raises(ValueError, match=rf"batch must be 1, .* got {batch}"):
            scheduler.draw(batch, 0)
    with pytest.raises(ValueError, match=r"folded_batches must lie in \[0, 1\], .* got 2"):
        scheduler.draw(1, 2)
    assert player.round().members is None


def test_groups_are_learned_in_draw_order_and_carried_ones_first(make_scheduler, make_report):
    """The k-th accepted group belongs to batch k div P."""
    scheduler = make_scheduler(allocator=Filter(round_size=11), max_staleness=100)
    player = Player(scheduler, make_report).play(8)
    accepted = [
        key for key, report in sorted(player.reports.items()) if len(set(report.rewards)) > 1
    ]
    learned = [key for batch in range(8) for key in player.members[batch]]
    assert learned == accepted[: 8 * 8]
    carried = [drawn.carried for drawn in player.draws if drawn.members is not None]
    assert player.draws[0].carried == ()
    assert sum(map(len, carried)) > 8 and list(carried[-1]) == accepted[8 * 8 :]
    metrics = scheduler.metrics()
    assert metrics["cost/filtered_tickets"] == len(player.tickets) - len(accepted)
    left_out = [report for key, report in player.reports.items() if key not in accepted]
    tokens = sum(report.prefill_tokens + report.lengths.sum() for report in left_out)
    assert metrics["cost/filtered_tokens"] == tokens > 0


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_what_would_be_too_stale_is_not_carried(make_scheduler, make_report, max_staleness):
    allocator = Filter(round_size=40)
    scheduler = make_scheduler(allocator=allocator, max_staleness=max_staleness)
    player = Player(scheduler, make_report).play(7)
    versions = {key: report.version for key, report in player.reports.items()}
    behind = [b - versions[key] for b, members in player.members.items() for key in members]
    assert max(behind) == max_staleness and min(behind) == 0
    used = {key for members in player.members.values() for key in members}
    assert len(used) == 7 * 8
    carried = {*player.draws[-1].carried}
    assert bool(carried) == (max_staleness > 0)
    metrics = scheduler.metrics()
    assert metrics["cost/filtered_tickets"] == len(player.tickets) - len(used | carried)
    assert metrics["cost/tickets"] == len(player.tickets)
    assert metrics["cost/pilot_tickets"] == metrics["cost/pilot_tokens"] == 0


def test_pilots_are_counted_and_never_trained_on(make_scheduler, make_report):
    scheduler = make_scheduler(allocator=Pilots(), thinning=KeepAll())
    player = Player(scheduler, make_report).play(3)
    pilots = [player.reports[key] for key, t in player.tickets.items() if not t.trainable]
    metrics = scheduler.metrics()
    assert metrics["cost/pilot_tickets"] == len(pilots) == 24
    tokens = sum(report.prefill_tokens + report.lengths.sum() for report in pilots)
    assert metrics["cost/pilot_tokens"] == tokens
    assert metrics["cost/filtered_tickets"] == metrics["cost/filtered_tokens"] == 0
    learned = [key for batch in range(3) for key in player.members[batch]]
    assert all(player.tickets[key].trainable for key in learned)
    sizes = sum(player.tickets[key].num_samples for key in learned)
    assert metrics["cost/trained_responses"] == sizes
    assert metrics["cost/responses"] == sizes + 48


def test_trainable_groups_of_rounds_that_were_not_final_count_as_filtered(
    make_scheduler, make_report
):
    @dataclass(frozen=True, slots=True)
    class TwoRounds(Filter):
        def next_round(self, so_far, snapshot, rng, state):
            final = bool(so_far.tickets)
            indices, state = self.draws.draw(state, snapshot.prepared, 5 if final else 3, rng)
            return draw_round(indices, np.full(len(indices), 4), snapshot, final=final), state

    player = Player(make_scheduler(allocator=TwoRounds()), make_report).play(2)
    assert player.members == {0: (3, 4, 5, 6, 7), 1: (11, 12, 13, 14, 15)}
    assert player.scheduler.metrics()["cost/filtered_tickets"] == 6


@dataclass(frozen=True, slots=True)
class Nothing(Filter):
    """Draws a few groups, `round_size` of them, and learns from none in every second batch."""

    def next_round(self, so_far, snapshot, rng, state):
        first = so_far.tickets[0].ticket_id if so_far.tickets else 0
        if len(so_far.tickets) >= self.round_size:
            empty = first // max(self.round_size, 1) % 2 == 0
            return Complete([] if empty else [t.ticket_id for t in so_far.tickets]), state
        indices, state = self.draws.draw(state, snapshot.prepared, self.round_size, rng)
        return draw_round(indices, np.full(len(indices), 4), snapshot, final=False), state


@pytest.mark.parametrize("round_size", [0, 3])
def test_a_batch_may_have_no_member(make_scheduler, make_report, round_size):
    scheduler = make_scheduler(
        allocator=Nothing(round_size=round_size), aggregation=ConstantLength()
    )
    player = Player(scheduler, make_report).play(4)
    assert [len(player.members[batch]) for batch in range(4)] == [0, round_size, 0, round_size]
    assert select(scheduler, 3, [player.reports[key] for key in player.members[3]], epoch=1) or (
        round_size == 0
    )
    assert player.round().members == () or round_size
    metrics = scheduler.metrics()
    assert metrics["cost/filtered_tickets"] == 2 * round_size
    assert all(np.isfinite(value) for value in metrics.values())


def test_no_member_selects_nothing(make_scheduler):
    scheduler = make_scheduler(allocator=Nothing(round_size=0))
    assert scheduler.draw(0, 0) == Draw([], (), (), False)
    assert select(scheduler, 0, []) == [] == select(scheduler, 0, [], epoch=1)
    scheduler.learned(0, Feedback(0.0, 0.0))
    assert scheduler.draw(1, 1).members == ()


@dataclass(frozen=True, slots=True)
class Snoop(Filter):
    """Notes the first number of every stream it is given."""

    heard: ClassVar[list[float]] = []

    def next_round(self, so_far, snapshot, rng, state):
        self.heard.append(copy.deepcopy(rng).random())
        return Filter.next_round(self, so_far, snapshot, rng, state)


def test_every_round_has_a_stream_of_its_own(make_scheduler, make_report):
    """That of a round which only completes too, though it issues no ticket."""
    Snoop.heard.clear()
    Player(make_scheduler(allocator=Snoop()), make_report).play(5)
    assert len(Snoop.heard) > 10 and len(set(Snoop.heard)) == len(Snoop.heard)
