"""The finished runs of a comparison, and which of them estimate the same thing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.study.comparison.curves import Curve


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One run as the comparison sees it."""

    summary: Mapping[str, Any]
    """Content of `summary.json`."""
    curve: Curve

    def spent(self, axis: str) -> float:
        """Return what the whole run took of an axis."""
        return float(self.curve.spent[axis][-1])


Runs = Mapping[str, Mapping[int, FinishedRun]]
"""Finished runs by arm and seed; the first arm is the baseline."""


def reweighted(runs: Runs) -> list[str]:
    """Return the arms whose draws, thinning, clipping or aggregation change the objective."""
    return [
        arm
        for arm, own in runs.items()
        if any(str(run.summary.get("objective")).startswith("reweighted") for run in own.values())
    ]


def incomparable(runs: Runs) -> list[str]:
    """Return the arms whose training reward need not estimate what the baseline's does."""
    others = reweighted(runs)
    return [] if next(iter(runs)) in others else others
