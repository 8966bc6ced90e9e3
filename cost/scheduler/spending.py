"""What each batch took of the machines, until a fitted price learns from it.

trained (every pass) -> enter (when learned) -> take (when folded)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cost.types import BatchSpending, LengthReport, Selection


class Spendings:
    """Spendings of batches that were not folded yet."""

    def __init__(self) -> None:
        """Start empty."""
        self._trained: dict[int, list[int]] = {}
        self._entered: dict[int, BatchSpending] = {}

    def trained(
        self, batch: int, reports: Sequence[LengthReport], selections: Sequence[Selection]
    ) -> None:
        """Count what one pass over a batch trains on; the sequences are aligned."""
        kept = [int(selection.keep.sum()) for selection in selections]
        prompts = sum(n * report.prompt_tokens for n, report in zip(kept, reports, strict=True))
        responses = sum(
            int(report.lengths[selection.keep].sum())
            for report, selection in zip(reports, selections, strict=True)
        )
        before = self._trained.get(batch, [0, 0, 0])
        self._trained[batch] = [
            count + more
            for count, more in zip(before, (sum(kept), prompts, responses), strict=True)
        ]

    def enter(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        engine_seconds: float,
        learner_seconds: float,
        score_seconds: float = 0.0,
    ) -> BatchSpending:
        """Enter the seconds of a batch whose tickets gave `reports`.

        Raises:
            ValueError: If seconds are negative or not finite.
        """
        given = {"engine": engine_seconds, "learner": learner_seconds, "score": score_seconds}
        for name, seconds in given.items():
            if not (np.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}_seconds must be finite and not negative, got {seconds!r}")
        responses, prompts, tokens = self._trained.pop(batch, [0, 0, 0])
        self._entered[batch] = BatchSpending(
            responses=sum(report.num_responses for report in reports),
            prefill_tokens=sum(int(report.prefill_tokens) for report in reports),
            response_tokens=sum(int(report.sampled_lengths.sum()) for report in reports),
            tool_seconds=float(sum(report.tool_seconds.sum() for report in reports)),
            engine_seconds=engine_seconds,
            trained_responses=responses,
            trained_prompt_tokens=prompts,
            trained_response_tokens=tokens,
            learner_seconds=learner_seconds,
            score_seconds=score_seconds,
        )
        return self._entered[batch]

    def take(self, batch: int) -> BatchSpending | None:
        """Hand over a batch's spending, once; None if its seconds were never told."""
        self._trained.pop(batch, None)
        return self._entered.pop(batch, None)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of numbers."""
        return {
            "trained": {str(key): list(counts) for key, counts in self._trained.items()},
            "entered": {str(key): asdict(spending) for key, spending in self._entered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._trained = {int(key): list(counts) for key, counts in state["trained"].items()}
        self._entered = {int(key): BatchSpending(**item) for key, item in state["entered"].items()}
