"""Runs of a scheduler in which batches, reports and folds come as they would in training."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn, draw_round, uniform_allocation
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Allocation, Complete
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws, IndependentDraws
from cost.types import Draw, Feedback, LengthReport, Ticket
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
