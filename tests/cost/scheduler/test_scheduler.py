"""The scheduler as its callers see it: determinism, one door for state, honest statistics."""

import copy
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from cost.advantages.within_group import GroupStandardised
from cost.aggregations import ConstantLength
from cost.draws.allocators.drawn import Drawn, draw_round, uniform_allocation
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Allocation, Complete
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws, IndependentDraws
from cost.draws.entropy_control import EntropyControl
from cost.ledger import METRICS
from cost.prices.seconds import SecondsPrice
from cost.thinning.clipping import GradientShare
from cost.thinning.priced import Priced
from cost.thinning.thinning import CostAware, KeepAll, Thinning
from cost.types import BatchSpending, Draw, Feedback, LengthReport, Ticket
from cost.worth.utilities import PassRateVariance
from tests.cost.play import select


@dataclass(frozen=True, slots=True)
class Filter(Drawn):
    """Draws rounds of `round_size` until P groups of mixed rewards are there."""

    round_size: int = 6
    objective_preserving: ClassVar[bool] = False
    uniform: ClassVar[bool] = False

    def allocate(self, estimates, state) -> Allocation:
        return uniform_allocation(len(estimates.costs))

    def next_round(self, so_far, snapshot, rng, state):
        mixed = [r.ticket_id for r in so_far.reports if len(set(r.rewards[r.usable].tolist())) > 1]
        accepted = [*so_far.carried, *mixed]
        if len(accepted) >= so_far.num_groups:
            return Complete(accepted), state
        indices, state = self.draws.draw(state, snapshot.prepared, self.round_size, rng)
        sizes = self.group_sizes(indices, snapshot, so_far.group_size)
        return draw_round(indices, sizes, snapshot, final=False), state


@dataclass(frozen=True, slots=True)
class Pilots(Drawn):
    """A pilot of two responses for each of P prompts, then groups sized by gradient norms."""

    objective_preserving: ClassVar[bool] = False
    uniform: ClassVar[bool] = False

    def allocate(self, estimates, state) -> Allocation:
        return uniform_allocation(len(estimates.costs))

    def next_round(self, so_far, snapshot, rng, state):
        if not so_far.tickets:
            indices, state = self.draws.draw(state, snapshot.prepared, so_far.num_groups, rng)
            sizes = np.full(len(indices), 2)
            flags = {"trainable": False, "gradient_norms": True, "final": False}
            return draw_round(indices, sizes, snapshot, **flags), state
        norms = np.array([so_far.gradient_norms[t.ticket_id].sum() for t in so_far.tickets])
        lengths = np.array([report.lengths.mean() for report in so_far.reports])
        sizes = 2 + rng.poisson(norms) + (lengths < 40)
        return draw_round(self.indices(so_far), sizes, snapshot), state

    def indices(self, so_far):
        return np.array([ticket.prompt_index for ticket in so_far.tickets])


@dataclass(frozen=True, slots=True)
class LateNorms(Filter):
    """Trainable groups, then a pilot with gradient norms, then learns from every second group."""

    def next_round(self, so_far, snapshot, rng, state):
        if len(so_far.tickets) < 8:
            late = bool(so_far.tickets)
            indices, state = self.draws.draw(state, snapshot.prepared, 2 if late else 6, rng)
            sizes = np.full(len(indices), so_far.group_size)
            flags = {"trainable": not late, "gradient_norms": late, "final": False}
            return draw_round(indices, sizes, snapshot, **flags), state
        assert set(so_far.gradient_norms) == {t.ticket_id for t in so_far.tickets[6:]}
        return Complete([t.ticket_id for t in so_far.tickets[:6:2]]), state


ONE_ROUND = [SquareRoot(), Uniform(draws=EpochDraws()), Uniform(draws=IndependentDraws())]
ALLOCATORS = [*ONE_ROUND, Filter(), Filter(draws=EpochDraws()), Pilots(), LateNorms()]


class Player:
    """Plays batches as the loop does: batch b is drawn when b - lag batches were learned."""

    def __init__(self, scheduler, make_report, *, lag=0, order=list):
        self.scheduler, self.make_report, self.lag, self.order = scheduler, make_report, lag, order
        self.num_drawn = self.num_learned = 0
        self.reports: dict[int, LengthReport] = {}
        self.tickets: dict[int, Ticket] = {}
        self.members: dict[int, tuple[int, ...]] = {}
        self.draws: list[Draw] = []
        self.selections: list[Any] = []
        self.norms: dict[int, np.ndarray] = {}

    def play(self, num_batches):
        """Draw and learn so many more batches."""
        last = self.num_drawn + num_batches
        while self.num_learned < last:
            if self.num_drawn < last and self.num_drawn <= self.num_learned + self.lag:
                self.round()
            else:
                self.learn()
        return self

    def round(self) -> Draw:
        """One round of the next batch, with all that it asks for."""
        batch = self.num_drawn
        drawn = self.scheduler.draw(batch, max(0, batch - self.lag), self.norms)
        version = max(0, batch - self.lag)
        reports = [self.make_report(ticket, version=version) for ticket in drawn.tickets]
        for report in self.order(reports):
            self.scheduler.observe(report)
        wanted = self.order(reports) if drawn.gradient_norms else ()
        self.norms = {report.ticket_id: np.sqrt(report.surprise) for report in wanted}
        self.tickets |= {ticket.ticket_id: ticket for ticket in drawn.tickets}
        self.reports |= {report.ticket_id: report for report in reports}
        self.draws.append(drawn)
        if drawn.members is not None:
            self.members[batch] = drawn.members
            self.num_drawn += 1
        return drawn

    def learn(self) -> None:
        """Select the next batch, and tell what it took."""
        batch = self.num_learned
        reports = [self.reports[ticket_id] for ticket_id in self.members[batch]]
        self.selections += select(self.scheduler, batch, reports)
        self.scheduler.learned(batch, Feedback(2.0 + batch, 1.0))
        self.num_learned += 1

    def continued_by(self, scheduler) -> "Player":
        """Another player at the same point, whose records begin here."""
        other = copy.copy(self)
        other.scheduler, other.draws, other.selections = scheduler, [], []
        for name in ("reports", "tickets", "members"):
            setattr(other, name, dict(getattr(self, name)))
        return other


def play(scheduler, make_report, num_steps, **options):
    """Run steps; return every ticket and selection."""
    player = Player(scheduler, make_report, **options).play(num_steps)
    return list(player.tickets.values()), player.selections


def assert_same(one, other):
    assert one.draws == other.draws
    for left, right in zip(one.selections, other.selections, strict=True):
        for name in left.__slots__:
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_order_of_reports_does_not_matter(make_scheduler, make_report, allocator, lag):
    rng = np.random.default_rng(0)
    players = [
        Player(make_scheduler(allocator=allocator, max_staleness=3), make_report, lag=lag, order=o)
        for o in (
            list,
            reversed,
            lambda reports: [reports[i] for i in rng.permutation(len(reports))],
        )
    ]
    for player in players:
        player.play(6)
    assert_same(players[0], players[1])
    assert_same(players[0], players[2])
    one, *others = [player.scheduler.metrics() for player in players]
    assert others == [one, one]


def test_reports_that_arrive_early_are_not_used_early(make_scheduler, make_report):
    eager, patient = make_scheduler(), make_scheduler()
    for scheduler in (eager, patient):
        scheduler.draw(0, 0)
    tickets = eager.draw(1, 0).tickets
    for ticket in tickets:
        eager.observe(make_report(ticket))
    patient.draw(1, 0)
    assert eager.draw(2, 0) == patient.draw(2, 0)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("num_rounds", [0, 1, 5, 6, 8, 9])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_state_taken_at_any_round_continues_the_same_run(
    make_scheduler, make_report, allocator, num_rounds, lag
):
    changes = {"allocator": allocator, "aggregation": ConstantLength(), "max_staleness": 3}
    player = Player(make_scheduler(**changes), make_report, lag=lag)
    for _ in range(num_rounds):
        while player.num_drawn > player.num_learned + lag:
            player.learn()
        player.round()
    state = copy.deepcopy(player.scheduler.state_dict())
    resumed = make_scheduler(**changes)
    resumed.load_state_dict(state)
    original, resumed = player.continued_by(player.scheduler), player.continued_by(resumed)
    assert_same(original.play(3), resumed.play(3))
    assert resumed.scheduler.metrics() == original.scheduler.metrics()


def test_batches_end_within_a_round_in_some_of_these_states(make_scheduler, make_report):
    """So that the test above takes states between the rounds of a batch."""
    player = Player(make_scheduler(allocator=Filter()), make_report)
    found = [player.round().members is None for _ in range(9)]
    assert found[0] and len(set(found)) == 2


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_state_is_plain_data(make_scheduler, make_report, allocator):
    player = Player(make_scheduler(allocator=allocator, max_staleness=3), make_report, lag=1)
    player.play(2)
    player.round()
    json.dumps(player.scheduler.state_dict(), default=lambda array: array.tolist())


def test_state_of_another_run_is_refused(make_scheduler):
    state = make_scheduler(seed=1).state_dict()
    with pytest.raises(ValueError, match=r"state\.seed must be 0 as configured, got 1"):
        make_scheduler(seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"state\.num_prompts must be 21 as configured, got 20"):
        make_scheduler(num_prompts=21, seed=1).load_state_dict(state)


@pytest.mark.parametrize("num_rounds", [2, 5])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_a_stopped_run_uses_every_ticket_once(
    make_scheduler, make_report, allocator, lag, num_rounds
):
    changes = {"allocator": allocator, "max_staleness": 3}
    player = Player(make_scheduler(**changes), make_report, lag=lag)
    for _ in range(num_rounds):
        while player.num_drawn > player.num_learned + lag:
            player.learn()
        player.round()
    state = copy.deepcopy(player.scheduler.state_dict())
    rng = np.random.default_rng(num_rounds)
    carried = {key for draw in player.draws for key in draw.carried}
    held = [r for key, r in player.reports.items() if key in carried or rng.random() < 0.5]
    scheduler = make_scheduler(**changes)
    scheduler.load_state_dict(state)
    undone = scheduler.resume(player.num_learned, held)
    resumed = player.continued_by(scheduler)
    again = [t for one in undone for t in one.draw.tickets if t.ticket_id in one.again]
    assert all(ticket.attempt == 1 for ticket in again)
    before = {key: replace(ticket, attempt=1) for key, ticket in player.tickets.items()}
    assert again == [before[ticket.ticket_id] for ticket in again]
    for ticket in again:
        report = make_report(ticket, version=player.reports[ticket.ticket_id].version)
        # What the lost attempt reports late counts for nothing.
        scheduler.observe(replace(report, attempt=0, lengths=report.lengths + 1))
        scheduler.observe(report)
        resumed.reports[ticket.ticket_id] = report
    original = player.continued_by(player.scheduler)
    assert_same(original.play(3), resumed.play(3))
    found, expected = resumed.scheduler.metrics(), original.scheduler.metrics()
    assert found["cost/lost_attempts"] == 2 * len(again)
    assert found["cost/generated_tokens"] - found["cost/wasted_tokens"] == pytest.approx(
        expected["cost/generated_tokens"]
    )
    changed = {name for name, value in found.items() if not same(value, expected[name])}
    assert changed <= {
        "cost/lost_attempts", "cost/wasted_tokens", "cost/generated_tokens",
        "cost/generated_response_tokens",
    }  # fmt: skip


def same(one, other):
    return one == pytest.approx(other, nan_ok=True)


def test_groups_of_reports_that_were_on_their_way_are_held(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 2)
    state = scheduler.state_dict()
    before = make_scheduler()
    before.load_state_dict(state)
    drawn = scheduler.draw(2, 2).tickets
    after = make_scheduler()
    after.load_state_dict(scheduler.state_dict())
    held = [make_report(drawn[0])]
    # The state knows the ticket and not the report.
    (undone,) = after.resume(2, held)
    assert undone.again == tuple(ticket.ticket_id for ticket in drawn[1:])
    assert after.metrics()["cost/lost_attempts"] == 0
    # The state does not know the ticket: the batch is drawn once more, alike.
    assert before.resume(2, held) == []
    assert before.draw(2, 2).tickets == drawn


def test_carried_groups_must_be_held(make_scheduler, make_report):
    player = Player(make_scheduler(allocator=Filter(), max_staleness=3), make_report, lag=1)
    while not player.draws or not player.draws[-1].carried:
        player.round()
        while player.num_drawn > player.num_learned + 1:
            player.learn()
    scheduler = make_scheduler(allocator=Filter(), max_staleness=3)
    scheduler.load_state_dict(player.scheduler.state_dict())
    with pytest.raises(ValueError, match=r"held must have the groups that are carried, lacks \["):
        scheduler.resume(player.num_drawn, [])


def test_missing_reports_are_named_and_nothing_changes(make_scheduler, make_report):
    scheduler, other = make_scheduler(), make_scheduler()
    tickets = scheduler.draw(0, 0).tickets
    assert other.draw(0, 0).tickets == tickets
    for ticket in tickets[:-2]:
        scheduler.observe(make_report(ticket))
    with pytest.raises(ValueError, match=r"before 2 tickets are reported: \[6, 7\]"):
        scheduler.draw(1, 1)
    assert scheduler.awaited(1, 1) == [6, 7]
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
    assert one.scheduler.awaited(0, 0) == [0, 5]
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


@dataclass(frozen=True, slots=True)
class Updates:
    """State of a plug that remembers the tickets of every update, and every spending."""

    tickets: tuple[tuple[int, ...], ...] = ()
    spendings: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RememberingPrice:
    """Costs nothing special; remembers what it was told."""

    def initial_state(self, prompts):
        return Updates()

    def update(self, state, prompts, visits):
        seen = tuple(visit.report.ticket_id for visit in visits)
        return replace(state, tickets=(*state.tickets, seen))

    def update_spending(self, state, spending):
        assert isinstance(spending, BatchSpending)
        # Spending comes after the update of the same batch.
        assert len(state.tickets) == len(state.spendings) + 1
        return replace(state, spendings=(*state.spendings, spending.engine_seconds))

    def metrics(self, state):
        return {}

    def of_drawing(self, prompt_tokens, lengths, group_size, *, state):
        return np.ones(len(lengths))

    def of_training(self, prompt_tokens, lengths, *, state):
        return np.ones(len(lengths))


def price_state(scheduler) -> dict[str, Any]:
    return scheduler.state_dict()["statistics"]["plugs"]["price"]


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("allocator", [Uniform(), Pilots()], ids=repr)
def test_plugs_learn_one_batch_at_a_time(make_scheduler, make_report, lag, allocator):
    """Pilots included, in ticket order, and with what the batch took of the machines."""
    scheduler = make_scheduler(price=RememberingPrice(), allocator=allocator, max_staleness=3)
    player = Player(scheduler, make_report, lag=lag).play(5)
    size = len(player.tickets) // 5
    scheduler.draw(5, 5)
    state = price_state(scheduler)
    assert state["tickets"] == tuple(tuple(range(b * size, (b + 1) * size)) for b in range(5))
    assert state["spendings"] == (2.0, 3.0, 4.0, 5.0, 6.0)


def test_a_fold_of_many_batches_is_that_of_one_after_the_other(make_scheduler, make_report):
    one, many = (make_scheduler(price=RememberingPrice()) for _ in range(2))
    for batch in range(4):
        for scheduler in (one, many):
            for ticket in scheduler.draw(batch, 0).tickets:
                scheduler.observe(make_report(ticket))
    for scheduler in (one, many):
        for batch in (2, 0, 1):  # told in any order
            scheduler.learned(batch, Feedback(float(batch), 1.0))
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 4"):
        one.learned(4, Feedback(1.0, 1.0))
    one.draw(4, 1)
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 0"):
        one.learned(0, Feedback(1.0, 1.0))
    for scheduler, folds in ((one, (2, 3)), (many, (3, 3))):
        for folded_batches in folds:
            batch = scheduler.state_dict()["drawing"]["batches"]["batch"] + 1
            scheduler.draw(batch, folded_batches)
    for scheduler in (one, many):
        state = price_state(scheduler)
        assert [len(seen) for seen in state["tickets"]] == [8, 8, 8]
        assert state["spendings"] == (0.0, 1.0, 2.0)
    np.testing.assert_array_equal(one.distribution().lengths, many.distribution().lengths)


def test_a_batch_whose_seconds_were_never_told_teaches_no_price(make_scheduler, make_report):
    scheduler = make_scheduler(price=RememberingPrice())
    reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
    select(scheduler, 0, reports)
    for seconds in ((-1.0, 0.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match=r"seconds must be finite and not negative, got"):
            scheduler.learned(0, Feedback(*seconds))
    scheduler.draw(1, 1)
    assert price_state(scheduler)["spendings"] == ()
    metrics = scheduler.metrics()
    assert metrics["cost/engine_seconds"] == metrics["cost/learner_seconds"] == 0


def test_spent_seconds_reach_the_ledger(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 3)
    metrics = scheduler.metrics()
    assert metrics["cost/engine_seconds"] == 2 + 3 + 4 and metrics["cost/learner_seconds"] == 3


def kept_after_calibration(scheduler, make_report, num_batches, batch=0):
    """Play batches whose gradient norms follow the length and not the surprise."""
    kept = []
    for number in range(batch, batch + num_batches):
        reports = [make_report(ticket) for ticket in scheduler.draw(number, 0).tickets]
        selections = select(scheduler, number, reports)
        kept.append(np.concatenate([selection.keep for selection in selections]).tolist())
        norms = [1.0 * report.lengths for report in reports]
        scheduler.learned(number, Feedback(1.0, 1.0, gradient_norms=norms))
    return kept


def test_calibration_moves_the_scores_of_later_batches_if_so_configured(
    make_scheduler, make_report
):
    changes = {"thinning": CostAware(budget=0.5), "calibrate_every": 1, "allocator": Uniform()}
    plain, moved = make_scheduler(**changes), make_scheduler(**changes, calibrated_proxy=True)
    before, after = (kept_after_calibration(one, make_report, 3) for one in (plain, moved))
    assert before[0] == after[0] and before[1] != after[1] and before[2] != after[2]
    resumed = make_scheduler(**changes, calibrated_proxy=True)
    resumed.load_state_dict(copy.deepcopy(moved.state_dict()))
    expected = kept_after_calibration(moved, make_report, 2, batch=3)
    assert kept_after_calibration(resumed, make_report, 2, batch=3) == expected


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


def test_learns_to_draw_what_is_cheap_and_undecided(make_scheduler, make_report):
    """Even prompts are short; prompts 0 to 9 always pass, the others half of the time."""
    scheduler = make_scheduler(
        allocator=SquareRoot(floor=0.1), utility=PassRateVariance(), tickets_per_step=20
    )
    rng = np.random.default_rng(0)
    for batch in range(60):
        for t in scheduler.draw(batch, batch).tickets:
            lengths = np.full(4, 10 if t.prompt_index % 2 == 0 else 100)
            rewards = np.ones(4) if t.prompt_index < 10 else rng.permutation([1.0, 1.0, 0.0, 0.0])
            scheduler.observe(make_report(t, lengths=lengths, rewards=rewards))
    scheduler.draw(60, 60)
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


def test_batches_do_not_go_back(make_scheduler, make_report):
    scheduler = make_scheduler(tickets_per_step=2)
    reports = [[make_report(t) for t in scheduler.draw(batch, 0).tickets] for batch in range(2)]
    select(scheduler, 1, reports[1])
    with pytest.raises(ValueError, match=r"batch must be complete and not before 1, .* got 0"):
        select(scheduler, 0, reports[0])
    with pytest.raises(ValueError, match=r"batch must be complete and not before 1, .* got 2"):
        select(scheduler, 2, [])


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


@pytest.mark.parametrize("allocator", [SquareRoot(), Filter(), Pilots()], ids=repr)
def test_tickets_are_forgotten_in_time(make_scheduler, make_report, allocator):
    scheduler = make_scheduler(allocator=allocator, max_staleness=1)
    player = Player(scheduler, make_report).play(10)
    state = scheduler.state_dict()
    recent = [key for key in player.tickets if key >= player.members[8][0]]
    assert len(state["book"]["tickets"]["ticket_id"]) <= len(recent)
    assert len(state["book"]["reports"]["ticket_id"]) <= len(recent)
    assert len(state["drawing"]["batches"]["members"]) <= 2
    assert len(state["statistics"]["spendings"]["entered"]) <= 1


@pytest.mark.parametrize("allocator", [SquareRoot(), Filter(), Pilots()], ids=repr)
def test_metrics_are_described_and_finite(make_scheduler, make_report, allocator):
    scheduler = make_scheduler(
        allocator=allocator, price=SecondsPrice(skip_batches=0), accelerator_hour_price=2.0,
        entropy_control=EntropyControl(), clipping=GradientShare(), thinning=Priced(),
    )  # fmt: skip
    assert set(scheduler.metrics()) <= set(METRICS)
    play(scheduler, make_report, 3)
    metrics = scheduler.metrics()
    assert set(metrics) == set(METRICS)
    assert all(np.isfinite(value) for value in metrics.values())
