"""What the starts of a run before this one took, and how numbers lie in the state of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NOT_FINITE = {str(value): value for value in (math.nan, math.inf, -math.inf)}


@dataclass(frozen=True, slots=True)
class EarlierStarts:
    """What the starts of a run took and saw, all together; NaN where nothing is known."""

    total_seconds: float = math.nan
    loop_seconds: float = math.nan
    parity_max_logprob_difference: float = math.nan

    def and_then(self, later: EarlierStarts) -> EarlierStarts:
        """Return the same with later starts."""
        return EarlierStarts(
            plus(self.total_seconds, later.total_seconds),
            plus(self.loop_seconds, later.loop_seconds),
            # Passes over the one that is not known.
            float(np.fmax(self.parity_max_logprob_difference, later.parity_max_logprob_difference)),
        )


def plus(a: float, b: float) -> float:
    """Return the sum of what is known; NaN if neither is."""
    return b if math.isnan(a) else a if math.isnan(b) else a + b


def packed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write what strict JSON has no number for as text, so that it can be told from None."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in plain.items()
    }


def unpacked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `packed` wrote.

    Raises:
        ValueError: If it holds anything but numbers and None.
    """
    found = {}
    for key, value in values.items():
        found[key] = NOT_FINITE.get(value) if isinstance(value, str) else value
        if value is not None and not isinstance(found[key], int | float):
            raise ValueError(f"{key} must be a number, got {value!r:.60}")
    return found
