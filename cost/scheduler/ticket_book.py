"""Tickets that are out, and the reports that came back for them.

    issue -> record (any order) -> take (ticket order) -> release

A ticket is held until its report was folded into the statistics and its batch was selected; after
that a report for it can only be a resent one and is ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cost.scheduler.reports import checked, digest
from cost.types import LengthReport, Ticket

_PER_RESPONSE = ("lengths", "truncated", "rewards", "status", "surprise", "answer_codes")
_PER_REPORT = tuple(name for name in LengthReport.__dataclass_fields__ if name not in _PER_RESPONSE)


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
        self._digests: dict[int, int] = {}

    def issue(self, tickets: Iterable[Ticket]) -> None:
        """Note new tickets; their ids continue the count."""
        for ticket in tickets:
            assert ticket.ticket_id == self.next_ticket_id
            self._tickets[ticket.ticket_id] = ticket
            self.next_ticket_id += 1
            self.num_exploring += ticket.exploring

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

    def record(self, report: LengthReport) -> LengthReport | None:
        """Keep a report until it is taken.

        Returns:
            The checked report, or None if it was recorded before.

        Raises:
            ValueError: If the ticket is unknown, a field cannot be true, or another report with
                other contents was recorded for the ticket.
        """
        if 0 <= report.ticket_id < self.released_until:
            return None
        report = checked(report, self.ticket(report.ticket_id))
        fingerprint = digest(report)
        known = self._digests.setdefault(report.ticket_id, fingerprint)
        if known != fingerprint:
            raise ValueError(
                "report.ticket_id must not repeat with other contents, "
                f"got a second report for {report.ticket_id!r}"
            )
        if report.ticket_id in self._reports or report.ticket_id < self.taken_until:
            return None
        self._reports[report.ticket_id] = report
        return report

    def missing(self, until: int, first: int = 0) -> list[int]:
        """Return the tickets from `first` to before `until` that have no report yet."""
        start = max(first, self.taken_until)
        return [key for key in range(start, until) if key not in self._reports]

    def reports(self, first: int, end: int) -> list[LengthReport]:
        """Return the reports of tickets first to end - 1, none of which was taken.

        Raises:
            ValueError: If one has no report.
        """
        missing = [key for key in range(first, end) if key not in self._reports]
        if missing:
            raise ValueError(
                f"tickets {first} to {end - 1} must all have been reported, "
                f"{len(missing)} are missing: {missing[:10]!r}"
            )
        return [self._reports[key] for key in range(first, end)]

    def take(self, until: int) -> list[tuple[Ticket, LengthReport]]:
        """Hand over the reports of all tickets before `until`, in ticket order, once.

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
        return [(self._tickets[key], self._reports.pop(key)) for key in keys]

    def release(self, before: int) -> None:
        """Forget tickets before `before` whose reports were taken."""
        until = min(before, self.taken_until)
        for key in range(self.released_until, until):
            del self._tickets[key]
            self._digests.pop(key, None)
        self.released_until = max(self.released_until, until)

    def reopen(self, first: int) -> list[Ticket]:
        """Forget the reports from `first` on and return those tickets, to be run again.

        Raises:
            ValueError: If one of them is part of the statistics already.
        """
        if first < self.taken_until:
            raise ValueError(
                f"first_ticket_id must be at least {self.taken_until}, the tickets folded, "
                f"got {first!r}"
            )
        for key in range(first, self.next_ticket_id):
            self._reports.pop(key, None)
            self._digests.pop(key, None)
        return [self._tickets[key] for key in range(first, self.next_ticket_id)]

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
            "digests": {str(key): value for key, value in self._digests.items()},
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
        self._digests = {int(key): value for key, value in state["digests"].items()}


def _columns(reports: Sequence[LengthReport]) -> dict[str, np.ndarray]:
    """Lay checked reports end to end, for few arrays however many there are."""
    columns = {
        name: np.array([getattr(report, name) for report in reports]) for name in _PER_REPORT
    }
    for name in _PER_RESPONSE if reports else ():
        columns[name] = np.concatenate([getattr(report, name) for report in reports])
    return columns | {"num_responses": np.array([report.num_responses for report in reports])}


def _rows(columns: Mapping[str, np.ndarray]) -> list[LengthReport]:
    """Take the reports of `_columns` apart again."""
    if len(columns["num_responses"]) == 0:
        return []
    ends = np.cumsum(columns["num_responses"])[:-1]
    fields = {name: columns[name].tolist() for name in _PER_REPORT}
    fields |= {name: np.split(columns[name], ends) for name in _PER_RESPONSE}
    return [
        LengthReport(**dict(zip(fields, row, strict=True)))
        for row in zip(*fields.values(), strict=True)
    ]
