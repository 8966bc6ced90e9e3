"""Plays batches against a scheduler, round by round, as the training loop does."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from cost.scheduler.scheduler import Scheduler
from cost.types import Draw, Feedback, FloatArray, LengthReport, Selection, Ticket
from tests.cost.play import select

MOST_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Played:
    """One batch as it was drawn, reported and selected."""

    rounds: list[Draw]
    """In order; the last one names the members."""
    reports: dict[int, LengthReport]
    """Of every ticket of the batch, by ticket id."""
    members: list[Ticket]
    """Tickets the batch learns from, in draw order, carried ones first."""
    selections: list[Selection]
    """One a member."""

    @property
    def tickets(self) -> list[Ticket]:
        """All tickets drawn for the batch."""
        return [ticket for drawn in self.rounds for ticket in drawn.tickets]

    @property
    def pilots(self) -> list[Ticket]:
        """Those never trained on."""
        return [ticket for ticket in self.tickets if not ticket.trainable]


def seeded_norms(ticket: Ticket, report: LengthReport) -> FloatArray:
    """[n] gradient norms that are a function of the ticket."""
    return np.random.default_rng([3, ticket.ticket_id]).uniform(0.5, 2, report.num_responses)


@pytest.fixture
def run_batches() -> Callable[..., list[Played]]:
    """Play the next `num_batches` batches of a scheduler, one after the other (staleness 0).

    `make_report(ticket)` and `make_norms(ticket, report) -> [n]` say what comes back.
    """
    held: dict[int, tuple[Ticket, LengthReport]] = {}

    def play(
        scheduler: Scheduler,
        make_report: Callable[[Ticket], LengthReport],
        num_batches: int,
        *,
        first_batch: int = 0,
        make_norms: Callable[[Ticket, LengthReport], FloatArray] = seeded_norms,
    ) -> list[Played]:
        batches = []
        for batch in range(first_batch, first_batch + num_batches):
            rounds: list[Draw] = []
            reports: dict[int, LengthReport] = {}
            norms: dict[int, FloatArray] = {}
            while not rounds or rounds[-1].members is None:
                assert len(rounds) < MOST_ROUNDS, "the allocator never completes its batch"
                drawn = scheduler.draw(batch, batch, norms)
                rounds.append(drawn)
                for ticket in drawn.tickets:
                    reports[ticket.ticket_id] = make_report(ticket)
                    held[ticket.ticket_id] = (ticket, reports[ticket.ticket_id])
                    scheduler.observe(reports[ticket.ticket_id])
                norms = {
                    ticket.ticket_id: make_norms(ticket, reports[ticket.ticket_id])
                    for ticket in drawn.tickets
                    if drawn.gradient_norms
                }
            members = rounds[-1].members
            assert members is not None
            selections = select(scheduler, batch, [held[key][1] for key in members])
            scheduler.learned(batch, Feedback(engine_seconds=1.0, learner_seconds=1.0))
            batches.append(Played(rounds, reports, [held[key][0] for key in members], selections))
        return batches

    return play
