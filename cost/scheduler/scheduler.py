"""The scheduler: which prompts to draw, and which finished responses to train on.

    draw(batch, folded) -> tickets -> (rollout) -> observe       any order, any time
    select(batch)       -> selections -> (learners)              each pass over a batch
    learned(batch)      <- seconds, entropy, gradient norms      each batch

`Drawing`, `Statistics` and `Selecting` own their states and share the book of tickets and reports.
The three verbs answer alike whatever order reports arrive in: reports wait in the book until a
batch boundary and are folded by ticket id, and streams are derived from the seed and ticket ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cost.draws.distribution import DrawDistribution
from cost.ledger import Ledger
from cost.prompts import Features, prompt_pool
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.drawing import Drawing
from cost.scheduler.selecting import Selecting
from cost.scheduler.statistics import Statistics
from cost.scheduler.ticket_book import TicketBook
from cost.state import HasState
from cost.types import Draw, Feedback, FloatArray, IntArray, LengthReport, Selection, Undone


class Scheduler:
    """Pure core of the scheduler actor, a facade over its three parts."""

    def __init__(
        self,
        config: SchedulerConfig,
        prompt_tokens: IntArray,
        sources: Sequence[str],
        max_tokens: int,
        seed: int,
        *,
        max_staleness: int = 0,
        features: Features | None = None,
    ) -> None:
        """Start with no visit; ValueError if there is no prompt or a number is out of range.

        Args:
            config: Plugs and numbers.
            prompt_tokens: [N] int, length of each prompt, at least 1.
            sources: N names of data sets or generators.
            max_tokens: Largest number of tokens in one response, at least 1.
            seed: The run's seed.
            max_staleness: Versions a group may be behind when learned, not negative.
            features: [N, F <= 64] of the prompts, for predictors, or None.
        """
        pool = prompt_pool(prompt_tokens, sources, max_tokens, features)
        self._price = config.accelerator_hour_price
        self._own = {"seed": seed, "num_prompts": pool.num_prompts}
        self._ledger, self._book = Ledger(), TicketBook()
        self._statistics = Statistics(config, pool, seed)
        self.drawing = Drawing(config, self._book, self._statistics, seed, max_staleness)
        self.selecting = Selecting(config, self._book, self.drawing.batches, seed, max_tokens)
        parts: list[HasState] = [self._book, self._statistics, self.drawing, self.selecting]
        self._parts = dict(zip(("book", "statistics", "drawing", "selecting"), parts, strict=True))

    def draw(
        self, batch: int, folded: int, gradient_norms: Mapping[int, FloatArray] | None = None
    ) -> Draw:
        """Draw one round of a batch's tickets from what is known of earlier batches.

        Args:
            batch: Number of the batch, from 0; the one after the last complete one, or the one
                whose rounds are not over.
            folded: Reports of the first so many batches are folded first; the caller picks it by
                the staleness it allows, never by what happens to have arrived.
            gradient_norms: What the round before asked for: by ticket id, [n] norm of each
                response's summed score, finite, not negative.

        Raises:
            ValueError: If a report or gradient norm that is needed is not there.
        """
        drawn = self.drawing.draw(batch, folded, gradient_norms or {}, self.selecting.batch)
        self._ledger = self._ledger.with_filtered(drawn.filtered)
        return drawn.draw

    def observe(self, report: LengthReport) -> None:
        """Take in a report, of which a ticket's newest counts; ValueError if it cannot be true."""
        self._ledger = self._book.record(report).entered(self._ledger)

    def select(
        self,
        batch: int,
        attempts: Sequence[int],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """Choose what to train on from one batch of finished tickets; one selection a member.

        Args:
            batch: Number of the batch, complete.
            attempts: Of each member in draw order, the attempt whose group the caller holds.
            epoch: Passes the learner made over this batch before; each thins anew.
            progress: Share of the run that is over before this batch, in [0, 1], for schedules.
            penalties: [n] of each member but the exploring ones, in units of advantage, taken off
                the advantages of its rewards; see `cost.advantages.penalties`.

        Raises:
            ValueError: If the batch is not there, attempts are not the last, or numbers not valid.
        """
        given = (self._statistics.plugs, batch, attempts, epoch, progress, penalties)
        found = self.selecting.select(*given)
        self._statistics.selected(batch, found)
        self._ledger = found.entered(self._ledger)
        return found.all

    def reuse(self, batch: int) -> list[list[Selection]]:
        """Choose once more from batches before the one selected last; see `Selecting.again`."""
        found, self._ledger = self.selecting.again(batch, self._ledger, self._statistics.spendings)
        return found

    def learned(self, batch: int, feedback: Feedback) -> None:
        """Take in what learning a batch took and showed, before it is folded, or ValueError."""
        reports, inputs = self.drawing.reports_of(batch), self.selecting.calibration_inputs(batch)
        spending = self._statistics.learned(batch, reports, inputs, feedback)
        self._ledger = self._ledger.with_spending(spending)

    def resume(self, batch: int, held: Sequence[LengthReport]) -> list[Undone]:
        """Go on from a state in which a batch is the first that was not learned.

        Every ticket drawn for it and later ones is used once: with the group whose report is in
        `held`, or as a new attempt with its own probability. Reports of tickets that the state does
        not know are passed over. ValueError if a carried group is not held.
        """
        known = [report for report in held if self._book.holds(report.ticket_id)]
        for report in known:
            if self._book.reported_attempt(report.ticket_id) is None:
                self.observe(report)
        again, lost = self.drawing.reopen(batch, {r.ticket_id: r.attempt for r in known})
        self._ledger = self._ledger.without_reports(lost)
        return self.drawing.undone(batch, again)

    def distribution(self) -> DrawDistribution:
        """Return the distribution that the next draw would use, nothing more folded."""
        return DrawDistribution.of(self._statistics.snapshot())

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS`."""
        own = self._ledger.metrics(self._price) | self._statistics.metrics()
        return own | self.selecting.metrics() | self.drawing.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return everything learned so far as dicts of arrays and numbers."""
        own = self._own | {"ledger": self._ledger.state_dict()}
        return own | {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; ValueError if it is of another seed, task or set of plugs."""
        for key, own in self._own.items():
            if state[key] != own:
                raise ValueError(f"state.{key} must be {own} as configured, got {state[key]!r}")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._ledger = Ledger(**state["ledger"])
