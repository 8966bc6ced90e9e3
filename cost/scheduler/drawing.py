"""The rounds of the batch being drawn: what the allocator answers becomes tickets and members.

BatchSoFar -> Statistics.next_round -> Round -> tickets, issued in the book
-> Complete -> members of the batch, carried tickets
entropy -> exploring tickets, the last of their batch
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cost.draws.allocators.types import BatchSoFar, Complete, Round
from cost.draws.streams import generator_for
from cost.scheduler.batches import Batches
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.reports import checked_norms
from cost.scheduler.statistics import Statistics
from cost.scheduler.ticket_book import TicketBook
from cost.types import Draw, FloatArray, LengthReport, Ticket, Undone


@dataclass(frozen=True, slots=True)
class DrawnRound:
    """A round, and what became of the rounds before."""

    draw: Draw
    filtered: Sequence[LengthReport]
    """Of trainable tickets that no batch will learn from."""


class Drawing:
    """Draws batches, one after the other.

    Args:
        config: The plugs and numbers.
        book: Where tickets are issued.
        statistics: What is known.
        seed: The run's seed.
        max_staleness: Versions a group may be behind when learned.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        book: TicketBook,
        statistics: Statistics,
        seed: int,
        max_staleness: int,
    ) -> None:
        self._config = config
        self._book = book
        self._statistics = statistics
        self._seed = seed
        self._max_staleness = max_staleness
        self.batches = Batches()
        self._exploring_factor = 1.0

    def draw(
        self,
        batch: int,
        folded_batches: int,
        gradient_norms: Mapping[int, FloatArray],
        selected_batch: int,
    ) -> DrawnRound:
        """Fold, then draw one round of a batch; see `Scheduler.draw`.

        `selected_batch` is the last one that was selected: those before are not needed any more.
        """
        for ticket_id, norms in gradient_norms.items():
            ticket = self._book.ticket(ticket_id)
            self.batches.gradient_norms[ticket_id] = checked_norms(norms, ticket)
        missing = self.awaited(batch, folded_batches)
        if missing:
            raise ValueError(
                f"batch {batch} must not be drawn before {len(missing)} tickets are reported: "
                f"{missing[:10]!r}"
            )
        if not self._is_open(batch):
            self.batches.open(batch, self._book.next_ticket_id)
            new = range(self._statistics.folded_batches, folded_batches)
            ends = [self.batches.end_of(known + 1) for known in new]
            self._statistics.fold([self._book.take(end) for end in ends])
            self.batches.release(self._statistics.folded_batches, selected_batch)
        return self._next_round()

    def awaited(self, batch: int, folded_batches: int) -> list[int]:
        """Return the tickets whose reports the next round of a batch needs and has not.

        Raises:
            ValueError: If that batch, or a batch to fold, is not there.
        """
        if self._is_open(batch):
            return self._book.missing(self._book.next_ticket_id, self.batches.first_ticket)
        return self._book.missing(self.batches.end_of(folded_batches))

    def reports_of(self, batch: int) -> list[LengthReport]:
        """Return the reports of all tickets drawn for a batch that was not folded yet.

        Raises:
            ValueError: If the batch is not complete, or was folded.
        """
        if batch < self._statistics.folded_batches or batch not in self.batches.ranges:
            raise ValueError(f"batch must be complete and not folded yet, got {batch!r}")
        return self._book.reports(range(*self.batches.ranges[batch]))

    def _is_open(self, batch: int) -> bool:
        """Whether the batch is the one whose rounds are not over."""
        return not self.batches.drawn and batch == self.batches.batch

    def _next_round(self) -> DrawnRound:
        """Ask the allocator for the next round of the open batch, and issue its tickets.

        Raises:
            ValueError: If gradient norms that it needs were not given.
        """
        batches = self.batches
        so_far = self._so_far()
        lacking = [key for key in batches.norms_of if key not in so_far.gradient_norms]
        if lacking:
            raise ValueError(
                f"gradient norms must be given before the next round, of tickets {lacking[:10]!r}"
            )
        # With the batch: after a round that only completes, no ticket was added.
        number = self._book.plain_before(self._book.next_ticket_id)
        rng = generator_for(self._seed, "draws", batches.batch, number)
        answer = self._statistics.next_round(so_far, rng)
        if isinstance(answer, Complete):
            tickets: list[Ticket] = []
            filtered = self._complete(answer)
        else:
            tickets, filtered = self._issue(answer)
        if batches.drawn:
            tickets += self._explore()
        draw = Draw(
            tickets=tickets,
            members=batches.members[batches.batch] if batches.drawn else None,
            carried=batches.carried_ids,
            gradient_norms=bool(batches.norms_of),
        )
        return DrawnRound(draw, filtered)

    def _so_far(self) -> BatchSoFar:
        ids = range(self.batches.first_ticket, self._book.next_ticket_id)
        return BatchSoFar(
            num_groups=self._statistics.sizes.tickets,
            group_size=self._statistics.sizes.group_size,
            tickets=[self._book.ticket(key) for key in ids],
            reports=self._book.reports(ids),
            gradient_norms=self.batches.gradient_norms,
            carried=self.batches.carried_ids,
        )

    def _issue(self, drawn: Round) -> tuple[list[Ticket], list[LengthReport]]:
        """Issue a round's tickets; returns them, and what was filtered if the batch ends."""
        first = self._book.next_ticket_id
        assert len(drawn.indices) > 0 or drawn.final, "a round without tickets must be final"
        assert drawn.trainable or not drawn.final, "a final round must not be of pilots"
        columns = (drawn.indices, drawn.group_sizes, drawn.probabilities, drawn.weights)
        tickets = [
            Ticket(
                ticket_id=ticket_id,
                prompt_index=index,
                num_samples=size,
                probability=probability,
                weight=weight,
                max_tokens=self._statistics.prompts.max_tokens,
                trainable=drawn.trainable,
            )
            for ticket_id, (index, size, probability, weight) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), first
            )
        ]
        self._book.issue(tickets)
        ids = tuple(ticket.ticket_id for ticket in tickets)
        self.batches.norms_of = ids if drawn.gradient_norms else ()
        if not drawn.final:
            return tickets, []
        members = [*self.batches.carried, *((ticket, None) for ticket in tickets)]
        earlier = self._book.reports(range(self.batches.first_ticket, first))
        self._end(members, len(members))
        return tickets, [r for r in earlier if self._book.ticket(r.ticket_id).trainable]

    def _complete(self, answer: Complete) -> list[LengthReport]:
        """End the open batch with the accepted tickets; returns what was filtered."""
        known = {ticket.ticket_id: (ticket, report) for ticket, report in self.batches.carried}
        ids = range(self.batches.first_ticket, self._book.next_ticket_id)
        for report in self._book.reports(ids):
            known[report.ticket_id] = (self._book.ticket(report.ticket_id), report)
        accepted = [known[ticket_id] for ticket_id in answer.accepted]
        assert all(ticket.trainable for ticket, _ in accepted), "pilots are never trained on"
        assert list(answer.accepted) == sorted({*answer.accepted}), "accepted must be in draw order"
        self._end(accepted, self._statistics.sizes.tickets)
        used = {*self.batches.members[self.batches.batch]}
        used |= {ticket.ticket_id for ticket, _ in self.batches.carried}
        return [r for t, r in known.values() if t.trainable and t.ticket_id not in used]

    def _end(self, accepted: Sequence[tuple[Ticket, LengthReport | None]], num_groups: int) -> None:
        self.batches.complete(
            accepted,
            self._book.next_ticket_id,
            num_groups,
            self._max_staleness,
            self._statistics.draw_saving,
        )

    def _explore(self) -> list[Ticket]:
        """Issue the exploring tickets of the batch just completed: some of its own once more."""
        control, batch = self._config.entropy_control, self.batches.batch
        entropy, members = self._statistics.entropy, self.batches.members[batch]
        self._exploring_factor = 1.0
        if control is None or math.isnan(entropy) or not members:
            return []
        self._exploring_factor = control.temperature_factor(entropy)
        rng = generator_for(self._seed, "exploring", batch)
        size = control.num_tickets(len(members))
        chosen = np.sort(rng.choice(members, size, replace=False)).tolist()
        tickets = [
            replace(
                self._book.ticket(ticket_id),
                ticket_id=new_id,
                temperature_factor=self._exploring_factor,
                attempt=0,
            )
            for new_id, ticket_id in enumerate(chosen, self._book.next_ticket_id)
        ]
        self._book.issue(tickets)
        self.batches.explore([ticket.ticket_id for ticket in tickets])
        return tickets

    def reopen(
        self, batch: int, held: Mapping[int, int]
    ) -> tuple[set[int], list[tuple[Ticket, LengthReport]]]:
        """Begin a new attempt at each ticket from a batch on whose group is not held.

        Args:
            batch: The first that was not learned.
            held: By ticket id, the attempt whose group is held.

        Returns:
            Ids of those tickets, and those of them with reports, of groups that are lost.

        Raises:
            ValueError: If a carried group is not held.
        """
        batches, book = self.batches, self._book
        first = batches.first_of(batch, book.next_ticket_id)
        fits = {key for key, attempt in held.items() if attempt == book.reported_attempt(key)}
        gone = sorted(batches.earlier(batch, first) - fits)
        if gone:
            raise ValueError(f"held must have the groups that are carried, lacks {gone[:10]!r}")
        # A pilot's responses are measured once and not kept; they are needed for it.
        fits -= {*batches.norms_of}
        again = {key for key in range(first, book.next_ticket_id) if key not in fits}
        return again, book.reopen(sorted(again))

    def undone(self, batch: int, again: Collection[int]) -> list[Undone]:
        """Return the batches from one on that were drawn, at least in part, with all tickets.

        `again` are the tickets that must be run again.
        """
        batches, next_ticket = self.batches, self._book.next_ticket_id
        ranges = [(number, ids) for number, ids in batches.ranges.items() if number >= batch]
        if not batches.drawn:
            ranges.append((batches.batch, (batches.first_ticket, next_ticket)))
        found = []
        for number, (first, end) in sorted(ranges):
            complete = number in batches.members
            draw = Draw(
                tickets=[self._book.ticket(key) for key in range(first, end)],
                members=batches.members.get(number),
                carried=() if number < batches.batch else batches.carried_ids,
                gradient_norms=not complete and bool(batches.norms_of),
            )
            found.append(Undone(number, draw, tuple(k for k in range(first, end) if k in again)))
        return found

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS` that are about the batch drawn last."""
        if self._config.entropy_control is None:
            return {}
        return {"cost/exploring_temperature_factor": self._exploring_factor}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""
        batches = self.batches.state_dict()
        return {"batches": batches, "exploring_factor": self._exploring_factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.batches.load_state_dict(state["batches"])
        self._exploring_factor = state["exploring_factor"]
