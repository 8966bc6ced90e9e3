"""What a run measured on held-out prompts, and of which of its policies.

metrics of the steps, summary -> HeldOut -> picture, report
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.types import FloatArray, IntArray
from launch.record.run_folder import at_versions


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pass rates on held-out prompts, by the policies that they are of."""

    positions: IntArray
    """[M] position of the step after which the policy was as measured; -1 before the first."""
    rates: FloatArray
    """[M] pass rates in [0, 1]."""
    half_widths: FloatArray
    """[M] half of 95% intervals, Student's t over prompts; 0 where unknown."""

    @classmethod
    def of(cls, metrics: Mapping[str, FloatArray], summary: Mapping[str, Any]) -> "HeldOut":
        """Return the pass rates that were measured before, on the way and after.

        Args:
            metrics: From `launch.record.run_folder.metric_columns`.
            summary: Content of `summary.json`, or what is known of it.
        """
        rates, half_widths = (
            np.concatenate(
                [
                    [_fact(summary, f"pass_rate_before{part}")],
                    at_versions(metrics, f"evaluation/pass_rate{part}"),
                    [_fact(summary, f"pass_rate_after{part}")],
                ]
            )
            for part in ("", "_half_width")
        )
        num_steps = len(metrics["step"])
        positions = np.array([-1, *range(num_steps), max(num_steps - 1, 0)])
        if num_steps and np.isfinite(rates[-1]):
            # The same weights as after the last step, measured again.
            rates[-2] = np.nan
        found = np.isfinite(rates)
        return cls(positions[found], rates[found], np.nan_to_num(half_widths[found]))

    def places(self, values: FloatArray, start: float) -> FloatArray:
        """Return [M] where the measured policies lie on an axis.

        Args:
            values: [T] what the axis counts, after each step.
            start: What it counts before the first step.
        """
        return np.append(values, start)[self.positions]


def _fact(summary: Mapping[str, Any], key: str) -> float:
    value = summary.get(key)
    return float(value) if isinstance(value, int | float) else math.nan
