"""Curves that people can read: a running mean of what jumps from step to step."""

import math

import numpy as np

from cost.types import FloatArray


def smoothed(values: FloatArray, decay: float = 0.85) -> FloatArray:
    """Return [T] averages over the past with exponentially falling weights; NaN is skipped.

    Args:
        values: [T] values in the order of time.
        decay: Weight of the step before, in [0, 1).
    """
    out = np.full(len(values), math.nan)
    total = mass = 0.0
    for index, value in enumerate(values):
        seen = math.isfinite(value)
        total = decay * total + (value if seen else 0.0)
        mass = decay * mass + seen
        out[index] = total / mass if mass else math.nan
    return out
