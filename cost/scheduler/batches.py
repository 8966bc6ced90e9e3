"""Which tickets make which batch.

    open(b) -> round -> (reports, gradient norms) -> round -> ... -> members of b

Batches are drawn one after the other, so each is a range of ticket ids. Its members, the tickets it
learns from, are those of the range that were accepted, or were carried from an earlier range.
Accepted tickets are used in draw order: the k-th one belongs to batch k div P, unless it would be
too stale by then. Exploring tickets end a range, and are members of its batch whatever they bring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cost.types import FloatArray, LengthReport, Ticket


@dataclass(slots=True)
class Batches:
    """The batch being drawn, and the members of those not learned yet."""

    batch: int = -1
    """Number of the batch opened last."""
    first_ticket: int = 0
    """Its first ticket."""
    drawn: bool = True
    """Whether it is complete."""
    norms_of: tuple[int, ...] = ()
    """Ticket ids whose gradient norms its next round needs."""
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    """First ticket and one past the last, of complete batches that were not folded yet."""
    members: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Ticket ids of complete batches that were not folded yet."""
    draw_savings: dict[int, float] = field(default_factory=dict)
    """What the draws of complete batches not folded yet save; see `cost.scheduler.savings`."""
    carried: list[tuple[Ticket, LengthReport]] = field(default_factory=list)
    """Accepted tickets that no batch has learned from yet."""
    gradient_norms: dict[int, FloatArray] = field(default_factory=dict)
    """By ticket id of the open batch."""

    @property
    def carried_ids(self) -> tuple[int, ...]:
        """Ids of the accepted tickets that no batch has learned from yet."""
        return tuple(ticket.ticket_id for ticket, _ in self.carried)

    def open(self, batch: int, first_ticket: int) -> None:
        """Begin to draw a batch.

        Raises:
            ValueError: If it is not the next one, or the one before is not complete.
        """
        if batch != self.batch + 1 or not self.drawn:
            raise ValueError(
                f"batch must be {self.batch + self.drawn}, batches are drawn one after the other, "
                f"got {batch!r}"
            )
        self.batch, self.first_ticket, self.drawn = batch, first_ticket, False
        self.gradient_norms = {}
        self.norms_of = ()

    def complete(
        self,
        accepted: Sequence[tuple[Ticket, LengthReport | None]],
        end: int,
        num_groups: int,
        max_staleness: int,
        draw_saving: float,
    ) -> None:
        """End the open batch.

        Args:
            accepted: Tickets worth learning from, in draw order; a report may be missing only
                where there are at most `num_groups` of them.
            end: One past the last ticket drawn.
            num_groups: P; more are carried.
            max_staleness: Versions a group may be behind when learned; older ones are not carried.
            draw_saving: Of the probabilities that it was drawn by.
        """
        chosen, rest = accepted[:num_groups], accepted[num_groups:]
        self.members[self.batch] = tuple(ticket.ticket_id for ticket, _ in chosen)
        self.carried = [
            (ticket, report)
            for ticket, report in rest
            if report is not None and self.batch + 1 - report.version <= max_staleness
        ]
        self.ranges[self.batch] = (self.first_ticket, end)
        self.draw_savings[self.batch] = draw_saving
        self.drawn, self.norms_of = True, ()

    def explore(self, ticket_ids: Sequence[int]) -> None:
        """Add exploring tickets, the next after the last one drawn, to the batch just completed."""
        first, end = self.ranges[self.batch]
        self.members[self.batch] += tuple(ticket_ids)
        self.ranges[self.batch] = (first, end + len(ticket_ids))

    def end_of(self, num_batches: int) -> int:
        """Return one past the last ticket of the first `num_batches` batches.

        Raises:
            ValueError: If they are not all complete.
        """
        if num_batches == 0:
            return 0
        complete = self.batch + self.drawn
        if not 0 <= num_batches <= complete:
            raise ValueError(
                f"folded_batches must lie in [0, {complete}], the batches drawn, "
                f"got {num_batches!r}"
            )
        # Batches folded before have no entry any more: nothing new to fold.
        return self.ranges.get(num_batches - 1, (0, 0))[1]

    def first_of(self, batch: int, next_ticket: int) -> int:
        """Return the first ticket drawn for a batch or a later one; the next if there is none."""
        if batch in self.ranges:
            return self.ranges[batch][0]
        return next_ticket if self.drawn or self.batch < batch else self.first_ticket

    def earlier(self, batch: int, first: int) -> set[int]:
        """Return the tickets before `first` that a batch from `batch` on learns from, or may."""
        used = [ids for number, ids in self.members.items() if number >= batch]
        used.append(tuple(ticket.ticket_id for ticket, _ in self.carried))
        return {key for ids in used for key in ids if key < first}

    def release(self, num_batches: int, selected_batch: int) -> None:
        """Forget batches before `num_batches` that were selected."""
        for batch in [key for key in self.ranges if key < min(num_batches, selected_batch)]:
            del self.ranges[batch]
            del self.members[batch]
            del self.draw_savings[batch]

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""
        return {
            "batch": self.batch,
            "first_ticket": self.first_ticket,
            "drawn": self.drawn,
            "norms_of": list(self.norms_of),
            "ranges": {str(key): list(ids) for key, ids in self.ranges.items()},
            "members": {str(key): list(ids) for key, ids in self.members.items()},
            "draw_savings": {str(key): saving for key, saving in self.draw_savings.items()},
            "carried": [
                {"ticket": asdict(ticket), "report": asdict(report)}
                for ticket, report in self.carried
            ],
            "gradient_norms": {str(key): norms for key, norms in self.gradient_norms.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.batch, self.first_ticket = state["batch"], state["first_ticket"]
        self.drawn, self.norms_of = state["drawn"], tuple(state["norms_of"])
        self.ranges = {int(key): (ids[0], ids[1]) for key, ids in state["ranges"].items()}
        self.members = {int(key): tuple(ids) for key, ids in state["members"].items()}
        self.draw_savings = {int(key): value for key, value in state["draw_savings"].items()}
        self.carried = [
            (Ticket(**pair["ticket"]), LengthReport(**pair["report"])) for pair in state["carried"]
        ]
        self.gradient_norms = {
            int(key): np.asarray(norms) for key, norms in state["gradient_norms"].items()
        }
