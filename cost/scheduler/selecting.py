"""Which responses to learn from, batch after batch.

    members of a batch -> select_batch, select_exploring -> Selected -> learners, ledger

Two things are kept from one batch for later ones. The first is the mean response length of earlier
batches, the divisor of `ConstantLength`: a batch enters it only after its own factors are fixed, so
that no divisor depends on the batch that it divides. The second, with `reuse`, is the last few
batches themselves; checkpoints do not hold them, so that a run that continues starts with none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.advantages.penalties import laid_out
from cost.draws.streams import generator_for
from cost.ledger import Ledger
from cost.scheduler.batches import Batches
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.plugs import CalibrationInputs, Plugs
from cost.scheduler.selection import Earlier, select_batch, select_exploring
from cost.scheduler.spending import Spendings
from cost.scheduler.ticket_book import TicketBook
from cost.state import to_plain
from cost.types import FloatArray, LengthReport, Selection, Ticket

EARLIER_DECAY = 0.9
"""What a batch counts in the mean length of earlier batches after one more batch."""


@dataclass(frozen=True, slots=True)
class Members:
    """The tickets that a batch learns from, with their reports, in draw order."""

    plain: Sequence[Ticket]
    plain_reports: Sequence[LengthReport]
    exploring: Sequence[Ticket]
    exploring_reports: Sequence[LengthReport]

    @classmethod
    def of(cls, tickets: Sequence[Ticket], reports: Sequence[LengthReport]) -> "Members":
        """Tell the exploring tickets, which are the last of a batch, from the others."""
        num_plain = sum(not ticket.exploring for ticket in tickets)
        return cls(
            tickets[:num_plain], reports[:num_plain], tickets[num_plain:], reports[num_plain:]
        )

    @property
    def reports(self) -> list[LengthReport]:
        """All of them, in draw order."""
        return [*self.plain_reports, *self.exploring_reports]


@dataclass(frozen=True, slots=True)
class Selected:
    """The selections of one pass over a batch."""

    members: Members
    plain: list[Selection]
    exploring: list[Selection]
    first_pass: bool
    draw_saving: float
    """Of the batch's draws; see `cost.scheduler.savings`."""
    thinning_saving: float
    """Of this pass; 0 where nothing can be said."""
    plugs: Plugs
    """As they are after the pass: a thinning may learn from the first one over a batch."""

    @property
    def all(self) -> list[Selection]:
        """One a member, in draw order."""
        return [*self.plain, *self.exploring]

    def entered(self, ledger: Ledger) -> Ledger:
        """Enter the pass into a ledger."""
        ledger = ledger.with_selection(
            self.members.plain_reports,
            self.plain,
            first_pass=self.first_pass,
            draw_saving=self.draw_saving,
            thinning_saving=self.thinning_saving,
        )
        # Neither draws nor thinning save any of these.
        return ledger.with_selection(
            self.members.exploring_reports, self.exploring, first_pass=self.first_pass
        )


class Selecting:
    """Selects from batches in the order in which they are learned.

    Args:
        config: The plugs and numbers.
        book: Tickets and reports.
        batches: Which tickets make which batch.
        seed: The run's seed.
        max_tokens: Largest number of tokens in one response.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        book: TicketBook,
        batches: Batches,
        seed: int,
        max_tokens: int,
    ) -> None:
        self._config = config
        self._book = book
        self._batches = batches
        self._seed = seed
        self._max_tokens = max_tokens
        self.batch = -1
        # Sum of weighted tokens and of weights: of the batches before the present one, and with it.
        self._earlier = (0.0, 0.0)
        self._earlier_next = (0.0, 0.0)
        self._metrics: dict[str, float] = {}
        self._calibration_inputs: CalibrationInputs | None = None
        # With `reuse`, by number: the present batch and at most max_age before it.
        self._lately: dict[int, Earlier] = {}

    def select(
        self,
        plugs: Plugs,
        batch: int,
        attempts: Sequence[int],
        epoch: int,
        progress: float,
        penalties: Sequence[FloatArray] | None,
    ) -> Selected:
        """Choose what one pass over a batch trains on; see `Scheduler.select`."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress!r}")
        members = self._members(batch, attempts)
        if batch > self.batch:
            self._enter(batch, members)
            plugs = plugs.entered()
        draw_saving = self._batches.draw_savings[batch]
        if not members.plain:
            return Selected(members, [], [], epoch == 0, draw_saving, 0.0, plugs)
        first = members.plain[0].ticket_id
        selections, self._metrics, after, candidates = select_batch(
            plugs,
            members.plain,
            members.plain_reports,
            folded=np.array([t.ticket_id for t in members.plain]) < self._book.taken_until,
            earlier_tokens=self._earlier_tokens,
            progress=progress,
            rng=generator_for(self._seed, "thinning", self._book.plain_before(first), epoch),
            penalties=laid_out(members.plain_reports, penalties),
        )
        if epoch == 0 and self._config.reuse is not None:
            factors = [selection.factors for selection in selections]
            earlier = Earlier(members.plain, members.plain_reports, candidates, factors)
            self._lately = {**self._lately, batch: earlier}
        if epoch == 0 and self._config.calibrate_every:
            self._calibration_inputs = CalibrationInputs.of(members.plain_reports, selections)
        exploring = select_exploring(
            plugs,
            self._config.entropy_control,
            members.exploring,
            members.exploring_reports,
            num_groups=len(members.plain),
            earlier_tokens=self._earlier_tokens,
        )
        saving = self._metrics.get("cost/thinning_saving_estimated", 0.0)
        plugs = after if epoch == 0 else plugs
        return Selected(members, selections, exploring, epoch == 0, draw_saving, saving, plugs)

    def again(
        self, batch: int, ledger: Ledger, spendings: Spendings
    ) -> tuple[list[list[Selection]], Ledger]:
        """Choose what to train on once more with a batch (cost/thinning/reuse.py).

        Args:
            batch: The one selected last.
            ledger: Where the pass over earlier batches is entered.
            spendings: Where it is counted as trained with the batch, whose seconds are of both.

        Returns:
            One list an earlier batch that is held, the oldest first, or one for the batch itself,
            with a selection for each of its plain members, weights as for a batch of its own, and
            none for a batch without any; and the new ledger.

        Raises:
            ValueError: If it is another batch, or nothing is configured to be used again.
        """
        reuse = self._config.reuse
        if reuse is None or batch != self.batch:
            raise ValueError(
                f"batch must be {self.batch}, the one selected last, with scheduler.reuse, "
                f"got {batch!r}"
            )
        found = []
        # Held are earlier batches and this one, or this one alone.
        taken = [key for key in self._lately if not reuse.max_age or key < batch]
        for earlier in (self._lately[key] for key in taken):
            rng = generator_for(self._seed, "reuse", batch, earlier.tickets[0].ticket_id)
            found.append(earlier.select(reuse, self._config.clipping, rng))
            ledger = ledger.with_selection(earlier.reports, found[-1], first_pass=False)
            spendings.trained(batch, earlier.reports, found[-1])
        return found, ledger

    def awaited(self, batch: int, attempts: Sequence[int]) -> list[int]:
        """Return the members of a batch of which the named attempt was not reported.

        Raises:
            ValueError: If the batch is not there, or the attempts are not one a member.
        """
        return self._book.awaited(self._member_ids(batch, attempts), attempts)

    def _member_ids(self, batch: int, attempts: Sequence[int]) -> tuple[int, ...]:
        first = max(self.batch, 0)
        members = self._batches.members.get(batch)
        if batch < first or members is None:
            raise ValueError(
                f"batch must be complete and not before {first}, the last one selected, "
                f"got {batch!r}"
            )
        if len(attempts) != len(members):
            raise ValueError(
                f"attempts must be one for each of the {len(members)} members of batch {batch}, "
                f"got {len(attempts)}"
            )
        return members

    def _members(self, batch: int, attempts: Sequence[int]) -> Members:
        ids = self._member_ids(batch, attempts)
        reports = self._book.reports(ids)
        reported = [report.attempt for report in reports]
        if reported != list(attempts):
            raise ValueError(
                f"attempts must be those of batch {batch} reported last, {reported!r}, "
                f"got {list(attempts)!r}"
            )
        return Members.of([self._book.ticket(key) for key in ids], reports)

    def _enter(self, batch: int, members: Members) -> None:
        """Move on to a batch: what came before it is now earlier, and is no longer needed."""
        self.batch, self._calibration_inputs = batch, None
        if self._config.reuse is not None:
            oldest = batch - self._config.reuse.max_age
            self._lately = {key: own for key, own in self._lately.items() if key >= oldest}
        if members.plain:
            self._book.release(members.plain[0].ticket_id)
        self._earlier = self._earlier_next
        total, weight = (EARLIER_DECAY * value for value in self._earlier)
        for ticket, report in zip(members.plain, members.plain_reports, strict=True):
            total += ticket.weight * float(report.own_lengths.sum())
            weight += ticket.weight * report.num_responses
        self._earlier_next = (total, weight)

    def calibration_inputs(self, batch: int) -> CalibrationInputs | None:
        """Return the responses of the first pass over a batch; None if it is not the last one."""
        return self._calibration_inputs if batch == self.batch else None

    @property
    def _earlier_tokens(self) -> float:
        total, weight = self._earlier
        return total / weight if total > 0 else float(self._max_tokens)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS` that are about the batch selected last."""
        return self._metrics | {"cost/earlier_tokens": self._earlier_tokens}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""
        return {
            "batch": self.batch,
            "earlier": list(self._earlier),
            "earlier_next": list(self._earlier_next),
            "metrics": dict(self._metrics),
            "scored": to_plain(self._calibration_inputs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.batch = state["batch"]
        self._earlier = tuple(state["earlier"])
        self._earlier_next = tuple(state["earlier_next"])
        self._metrics = dict(state["metrics"])
        self._lately = {}
        self._calibration_inputs = (
            None if state["scored"] is None else CalibrationInputs(**state["scored"])
        )
