"""Tickets that are out, and the reports that came back for them.

    issue -> record (any order) -> take (ticket order) -> release

A ticket and its report are held until the report was folded into the statistics and the ticket's
batch was learned. A ticket whose first attempt was given up may be reported more than once, by
attempts that ended after all: the newest one counts, and the others are lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cost.ledger import Ledger
from cost.scheduler.reports import PER_RESPONSE, checked
from cost.types import LengthReport, Ticket

_PER_REPORT = tuple(
    name
    for name in LengthReport.__dataclass_fields__
    if name not in (*PER_RESPONSE, "reward_components")
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report changed: nothing, if the same attempt had been recorded before."""

    ticket: Ticket | None = None
    """The ticket that is reported, if it was not released."""
    counts: LengthReport | None = None
    """The report, checked, if it is the one of its ticket that counts."""
    replaced: LengthReport | None = None
    """The report of an older attempt that counted until then, and is lost."""
    lost: LengthReport | None = None
    """The report, if it is of an attempt that was given up."""

    def entered(self, ledger: Ledger) -> Ledger:
        """Enter the change into a ledger."""
        if self.lost is not None:
            return ledger.with_lost(self.lost)
        if self.ticket is None or self.counts is None:
            return ledger
        if self.replaced is not None:
            ledger = ledger.without_reports([(self.ticket, self.replaced)])
        return ledger.with_report(self.counts, self.ticket)


class TicketBook:
    """Who was asked for what, and what came back."""

    def __init__(self) -> None:
        """Start empty, with ticket 0 the next."""
        self.next_ticket_id = 0
        self.num_exploring = 0
        self.taken_until = 0
        self.released_until = 0
        self._tickets: dict[int, Ticket] = {}
        self._reports: dict[int, LengthReport] = {}

    def issue(self, tickets: Iterable[Ticket]) -> None:
        """Note new tickets; their ids continue the count."""
        for ticket in tickets:
            assert ticket.ticket_id == self.next_ticket_id
            self._tickets[ticket.ticket_id] = ticket
            self.next_ticket_id += 1
            self.num_exploring += ticket.exploring

    def holds(self, ticket_id: int) -> bool:
        """Whether a ticket was issued and not released."""
        return ticket_id in self._tickets

    def ticket(self, ticket_id: int) -> Ticket:
        """Return a ticket that is still held.

        Raises:
            ValueError: If there is no such ticket, or it was released.
        """
        if ticket_id not in self._tickets:
            raise ValueError(
                f"ticket_id must name a ticket in [{self.released_until}, {self.next_ticket_id}), "
                f"got {ticket_id!r}"
            )
        return self._tickets[ticket_id]

    def plain_before(self, ticket_id: int) -> int:
        """Return how many tickets before one that is held, or is the next, were not exploring.

        Streams that are named by it give the same numbers with and without exploring tickets.
        """
        if self.num_exploring == 0:
            return ticket_id
        after = sum(t.exploring and t.ticket_id >= ticket_id for t in self._tickets.values())
        return ticket_id - (self.num_exploring - after)

    def record(self, report: LengthReport) -> Recorded:
        """Keep a report until its ticket is released; that of a newer attempt takes its place.

        Raises:
            ValueError: If the ticket is unknown or a field cannot be true.
        """
        if 0 <= report.ticket_id < self.released_until:
            # Nobody waits for it, so it can only be of an attempt that was given up.
            return Recorded(lost=report)
        ticket = self.ticket(report.ticket_id)
        report = checked(report, ticket)
        known = self._reports.get(report.ticket_id)
        if known is None and report.attempt < ticket.attempt:
            # The ticket was reopened; that attempt's group went with the others.
            return Recorded(lost=report)
        if known is not None and report.attempt == known.attempt:
            return Recorded()
        # What the statistics have learned from stays what they have learned from.
        folded = report.ticket_id < self.taken_until
        if known is not None and (report.attempt < known.attempt or folded):
            return Recorded(lost=report)
        self._reports[report.ticket_id] = report
        return Recorded(ticket, counts=report, replaced=known)

    def awaited(self, ticket_ids: Sequence[int], attempts: Sequence[int]) -> list[int]:
        """Return the tickets of which there is no report of that attempt or a newer one."""
        return [
            key
            for key, attempt in zip(ticket_ids, attempts, strict=True)
            if key not in self._reports or self._reports[key].attempt < attempt
        ]

    def missing(self, until: int, first: int = 0) -> list[int]:
        """Return the tickets from `first` to before `until` that have no report yet."""
        start = max(first, self.taken_until)
        return [key for key in range(start, until) if key not in self._reports]

    def reports(self, ticket_ids: Iterable[int]) -> list[LengthReport]:
        """Return the reports of some tickets that were not released, in the order given.

        Raises:
            ValueError: If one has no report.
        """
        keys = list(ticket_ids)
        missing = [key for key in keys if key not in self._reports]
        if missing:
            raise ValueError(
                f"tickets must all have been reported, {len(missing)} are missing: {missing[:10]!r}"
            )
        return [self._reports[key] for key in keys]

    def take(self, until: int) -> list[tuple[Ticket, LengthReport]]:
        """Hand over the reports of all tickets before `until` to be folded, in ticket order, once.

        Raises:
            ValueError: If one has no report yet, or `until` is beyond the tickets drawn.
        """
        if until > self.next_ticket_id:
            raise ValueError(
                f"folded_until must be at most {self.next_ticket_id}, the tickets drawn, "
                f"got {until!r}"
            )
        missing = self.missing(until)
        if missing:
            raise ValueError(
                f"folded_until must not be beyond unreported tickets, got {until!r} while "
                f"{len(missing)} are missing: {missing[:10]!r}"
            )
        keys = range(self.taken_until, until)
        self.taken_until = max(self.taken_until, until)
        return [(self._tickets[key], self._reports[key]) for key in keys]

    def release(self, before: int) -> None:
        """Forget tickets before `before` whose reports were taken."""
        until = min(before, self.taken_until)
        for key in range(self.released_until, until):
            del self._tickets[key]
            del self._reports[key]
        self.released_until = max(self.released_until, until)

    def reopen(self, ticket_ids: Iterable[int]) -> list[tuple[Ticket, LengthReport]]:
        """Begin a new attempt at some tickets, whose groups are lost.

        Returns:
            Those of them that were reported, with the reports.

        Raises:
            ValueError: If one of them is part of the statistics already, or not held.
        """
        lost: list[tuple[Ticket, LengthReport]] = []
        for key in ticket_ids:
            if key < self.taken_until:
                raise ValueError(
                    f"ticket_ids must be at least {self.taken_until}, the tickets folded, "
                    f"got {key!r}"
                )
            ticket, report = self.ticket(key), self._reports.pop(key, None)
            last = ticket.attempt if report is None else report.attempt
            self._tickets[key] = replace(ticket, attempt=last + 1)
            lost += [] if report is None else [(ticket, report)]
        return lost

    def reported_attempt(self, ticket_id: int) -> int | None:
        """Return the attempt whose report counts; None without one."""
        report = self._reports.get(ticket_id)
        return None if report is None else report.attempt

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""
        tickets = self._tickets.values()
        return {
            "next_ticket_id": self.next_ticket_id,
            "num_exploring": self.num_exploring,
            "taken_until": self.taken_until,
            "tickets": {
                name: np.array([getattr(ticket, name) for ticket in tickets])
                for name in Ticket.__dataclass_fields__
            },
            "reports": _columns(list(self._reports.values())),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        columns = [values.tolist() for values in state["tickets"].values()]
        rows = [
            Ticket(**dict(zip(state["tickets"], row, strict=True)))
            for row in zip(*columns, strict=True)
        ]
        self.next_ticket_id = state["next_ticket_id"]
        self.num_exploring = state["num_exploring"]
        self.taken_until = state["taken_until"]
        self._tickets = {ticket.ticket_id: ticket for ticket in rows}
        self.released_until = min(self._tickets, default=self.next_ticket_id)
        self._reports = {report.ticket_id: report for report in _rows(state["reports"])}


def _columns(reports: Sequence[LengthReport]) -> dict[str, np.ndarray]:
    """Lay checked reports end to end, for few arrays however many there are."""
    columns = {
        name: np.array([getattr(report, name) for report in reports]) for name in _PER_REPORT
    }
    for name in PER_RESPONSE if reports else ():
        columns[name] = np.concatenate([getattr(report, name) for report in reports])
    return columns | {"num_responses": np.array([report.num_responses for report in reports])}


def _rows(columns: Mapping[str, np.ndarray]) -> list[LengthReport]:
    """Take the reports of `_columns` apart again."""
    if len(columns["num_responses"]) == 0:
        return []
    ends = np.cumsum(columns["num_responses"])[:-1]
    fields = {name: columns[name].tolist() for name in _PER_REPORT}
    fields |= {name: np.split(columns[name], ends) for name in PER_RESPONSE}
    return [
        LengthReport(**dict(zip(fields, row, strict=True)))
        for row in zip(*fields.values(), strict=True)
    ]
