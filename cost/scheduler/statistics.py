"""What finished tickets and learned batches taught, up to a batch boundary.

    fold(batches) -> visits -> Plugs.folded, Plugs.spent -> snapshot -> draws

Owns the plugs with their states, the snapshot made of them, and what was told of batches that are
not folded yet.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cost.advantages.types import group_batch
from cost.draws.allocators.types import BatchSoFar, Complete, Round, Snapshot
from cost.draws.distribution import DrawDistribution
from cost.draws.sizing import Sizes
from cost.draws.streams import generator_for
from cost.prompts import PromptPool, Visit
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.overhead import group_overhead
from cost.scheduler.plugs import CalibrationInputs, Plugs
from cost.scheduler.savings import draw_saving, floored_share
from cost.scheduler.selecting import Selected
from cost.scheduler.spending import Spendings
from cost.state import from_plain, keywords, to_plain
from cost.types import BatchSpending, Feedback, LengthReport, Ticket

Finished = Sequence[tuple[Ticket, LengthReport]]
"""Tickets with their reports, in ticket order."""


class Statistics:
    """What is known of prompts, responses and machines.

    Args:
        config: The plugs and numbers.
        prompts: The task.
        seed: The run's seed.
    """

    def __init__(self, config: SchedulerConfig, prompts: PromptPool, seed: int) -> None:
        self._config = config
        self._seed = seed
        self.prompts = prompts
        self.plugs = Plugs.of(config, prompts)
        self.folded_batches = 0
        self.spendings = Spendings()
        # Nats per token: of learned batches not folded yet, and of the last that was folded.
        self._entropies: dict[int, float] = {}
        self.entropy = math.nan
        sizing = config.sizing
        self._sizing = None if sizing is None else sizing.initial_state(config.first_sizes)
        # Of selected batches that were not folded yet.
        self._overheads: dict[int, float] = {}
        self.draw_saving = 0.0
        self._fold_metrics: dict[str, float] = {}
        self._snapshot: Snapshot | None = None

    def fold(self, batches: Iterable[Finished]) -> None:
        """Fold the reports of all tickets of the next batches, in ticket order.

        Batch by batch, so that a plug which moves once a batch sees the same whatever the caller's
        steps.
        """
        visits: Sequence[Visit] = ()
        for finished in batches:
            before = self.plugs.states["length"]
            if found := self._fold_batch(finished):
                visits, believed = found, before
        # Of the last batch alone: an estimate takes O(N).
        if visits:
            self._fold_metrics = self._length_error(visits, believed)

    def _fold_batch(self, finished: Finished) -> list[Visit]:
        visits = self._visits(
            [
                (ticket, report)
                for ticket, report in finished
                if report.num_responses > 0 and not ticket.exploring
            ]
        )
        spending = self.spendings.take(self.folded_batches)
        self.entropy = self._entropies.pop(self.folded_batches, self.entropy)
        overhead = self._overheads.pop(self.folded_batches, None)
        if overhead is not None:
            self._sizing = self._config.sizing.updated(self._sizing, overhead)
        # Before the states are copied: a snapshot is the largest thing there is.
        self._snapshot = None
        if visits:
            self.plugs = self.plugs.folded(self.prompts, visits)
        if spending is not None:
            self.plugs = self.plugs.spent(spending)
        self.folded_batches += 1
        return visits

    def _visits(self, finished: Finished) -> list[Visit]:
        """Derive what the reports of one batch's tickets teach, from what was known before."""
        if not finished:
            return []
        reports = [report for _, report in finished]
        trainable = [report.trainable for report in reports]
        groups = group_batch(reports, self.prompts.max_tokens)
        # What is not trained on has no gradient, whatever its advantage.
        advantages = np.where(np.concatenate(trainable), self.plugs.advantages(groups), 0.0)
        # A divisor that stays: only ratios between prompts and visits matter.
        factors = self.plugs.factors(
            [report.own_lengths for report in reports], trainable, earlier_tokens=1.0
        )
        return [
            Visit(report, ticket.weight, report.usable, own_advantages, own_factors)
            for (ticket, report), own_advantages, own_factors in zip(
                finished,
                np.split(advantages, np.cumsum(groups.sizes)[:-1]),
                factors,
                strict=True,
            )
        ]

    def _length_error(self, visits: Sequence[Visit], state: Any) -> dict[str, float]:
        """Compare what was seen with what a state of the length plug expected."""
        estimates = self.plugs.length.estimate(self.prompts, **keywords(state))
        seen = np.array([visit.report.lengths.mean() for visit in visits])
        expected = estimates[[visit.report.prompt_index for visit in visits]]
        error = float(np.abs(expected - seen).mean() / max(float(seen.mean()), 1.0))
        return {"cost/length_error_share": error}

    @property
    def sizes(self) -> Sizes:
        """Those of the batch that is opened next, nothing more folded."""
        config = self._config
        found: Sizes = (
            config.first_sizes if config.sizing is None else config.sizing.sizes(self._sizing)
        )
        return found

    def selected(self, batch: int, found: Selected) -> None:
        """Take in what a pass over a batch selected; a fold uses it with the batch."""
        self.plugs, members = found.plugs, found.members
        self.spendings.trained(batch, members.reports, found.all)
        if self._config.sizing is None or not found.first_pass:
            return
        overhead = group_overhead(self.plugs, members.plain_reports, found.plain)
        if overhead is not None:
            self._overheads[batch] = overhead

    def learned(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        inputs: CalibrationInputs | None,
        feedback: Feedback,
    ) -> BatchSpending:
        """Take in what learning from a batch took and showed; a fold uses it with the batch.

        Args:
            batch: Number of the batch, not folded yet.
            reports: Of all tickets drawn for it.
            inputs: Of the responses that gradient norms are of; None if none was selected.
            feedback: Of the learners and engines.

        Raises:
            ValueError: If a number cannot be true.
        """
        spending = self.spendings.enter(
            batch,
            reports,
            feedback.engine_seconds,
            feedback.learner_seconds,
            feedback.score_seconds,
        )
        if math.isfinite(feedback.entropy):
            self._entropies[batch] = float(feedback.entropy)
        if feedback.gradient_norms is not None and inputs is not None:
            self.plugs = self.plugs.calibrated(inputs, feedback.gradient_norms)
        return spending

    def next_round(self, so_far: BatchSoFar, rng: np.random.Generator) -> Round | Complete:
        """Ask the allocator what to draw next for a batch, and keep its state."""
        answer, self.plugs = self.plugs.next_round(so_far, self.snapshot(), rng)
        return answer

    def snapshot(self) -> Snapshot:
        """Return the snapshot that draws are made from, made anew after a fold."""
        if self._snapshot is None:
            self._snapshot = self.plugs.snapshot(
                self.prompts,
                self.sizes.group_size,
                generator_for(self._seed, "snapshot", self.folded_batches),
            )
            self.draw_saving = 0.0
            # Only weights that undo the draws leave the variance of uniform draws to compare with.
            if self._config.allocator.objective_preserving:
                now = DrawDistribution.of(self._snapshot)
                self.draw_saving = draw_saving(now.probabilities, now.costs, now.utilities)
        return self._snapshot

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS` that are about what is known."""
        distribution = DrawDistribution.of(self.snapshot())
        calibrations = self.plugs.calibration_metrics() if self._config.calibrate_every else {}
        sizing = self._config.sizing
        sizes = {} if sizing is None else sizing.metrics(self._sizing)
        return (
            self._fold_metrics
            | calibrations
            | sizes
            | self.plugs.price_metrics()
            | {
                "cost/draw_saving_estimated": self.draw_saving,
                "cost/draw_floored_share": floored_share(distribution.probabilities),
                "cost/total_variation": distribution.total_variation_from_uniform,
                "cost/expected_length_ratio": distribution.expected_length_ratio,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""
        return {
            "plugs": self.plugs.state_dict(),
            "folded_batches": self.folded_batches,
            "spendings": self.spendings.state_dict(),
            "entropies": {str(batch): entropy for batch, entropy in self._entropies.items()},
            "entropy": self.entropy,
            "sizing": to_plain(self._sizing),
            "overheads": {str(batch): overhead for batch, overhead in self._overheads.items()},
            "fold_metrics": dict(self._fold_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: If it is of other plugs.
        """
        self.plugs = self.plugs.loaded(state["plugs"])
        self.folded_batches = state["folded_batches"]
        self.spendings.load_state_dict(state["spendings"])
        self._entropies = {int(batch): entropy for batch, entropy in state["entropies"].items()}
        self.entropy = state["entropy"]
        self._sizing = from_plain(self._sizing, state["sizing"])
        self._overheads = {int(batch): found for batch, found in state["overheads"].items()}
        self._fold_metrics = dict(state["fold_metrics"])
        self._snapshot = None
