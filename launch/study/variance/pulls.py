"""How far responses to one prompt pull the same way, and how far prompts do.

responses, their gradients -> PullSums.add -> Pulls of a batch -> alignment, noise scale

Each group is cut into two halves with leave-one-out advantages of their own. Given the prompt their
gradients a and b are independent, and both have the mean h, the gradient of the prompt's expected
reward: a . b has the mean |h|^2, and a . b' of another group's half that of |E h|^2. Nothing is
assumed of the responses. Symbols are those of `cost.draws.sizing`; the factor is one over length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.types import BoolArray, FloatArray
from launch.study.variance.rules import Responses


@dataclass(frozen=True, slots=True)
class Pulls:
    """Means over the groups of a batch.

    Example: Pulls(own=2.1e-3, within=4.0e-5, across=2.2e-6)
    """

    own: float
    """Estimate of v S."""
    within: float
    """Of |h|^2; may be negative."""
    across: float
    """Of |E h|^2, likewise; NaN for one group."""


class PullSums:
    """Adds up the gradients of one batch's halves of groups, two at a time.

    Args:
        responses: Of P groups of `group_size`, M in all.
        group_size: n, at least 4; below that all is 0.
        zero: Torch tensor [num_parameters] of zeros.
    """

    def __init__(self, responses: Responses, group_size: int, zero: Any) -> None:
        self._half = np.arange(len(responses.rewards)) % group_size >= group_size // 2
        self._coefficients, self._own_factors = half_coefficients(responses, self._half)
        self._groups, self._num_groups = responses.groups, len(responses.rewards) // group_size
        self._group = 0
        self._of_group = (zero.clone(), zero.clone())
        self._of_batch = (zero.clone(), zero.clone())
        self._own = self._within = 0.0

    def add(self, j: int, gradient: Any) -> None:
        """Add response j's [num_parameters]; j never falls, those without advantage may lack."""
        if self._groups[j] != self._group:
            self._close_group()
            self._group = int(self._groups[j])
        self._of_group[int(self._half[j])].add_(gradient, alpha=float(self._coefficients[j]))
        self._own += float(self._own_factors[j]) * float(gradient.double().square().sum())

    def pulls(self) -> Pulls:
        """Return the means over all groups."""
        self._close_group()
        count = self._num_groups
        pairs = _product(*self._of_batch) - self._within
        across = pairs / (count * (count - 1)) if count > 1 else math.nan
        return Pulls(self._own / count, self._within / count, across)

    def _close_group(self) -> None:
        self._within += _product(*self._of_group)
        for total, half in zip(self._of_batch, self._of_group, strict=True):
            total.add_(half)
            half.zero_()


def half_coefficients(responses: Responses, half: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return what gradients, and what their squared norms, count with.

    Args:
        responses: M.
        half: [M] bool, which half of its group each is in.

    Returns:
        [M] advantage times factor over responses of the half; [M] that square, so scaled that its
        sums over a group, times squared norms, have the mean v S.
    """
    coefficients, own = np.zeros(len(half)), np.zeros(len(half))
    factors = responses.factors("sequence_mean")
    keys = 2 * responses.groups + half
    for key in np.unique(keys):
        chosen = np.flatnonzero((keys == key) & responses.usable)
        m = len(chosen)
        if m < 2:
            continue
        rewards = responses.rewards[chosen]
        advantages = (rewards - rewards.mean()) * m / (m - 1)
        coefficients[chosen] = advantages * factors[chosen] / m
        # Both halves of a group tell.
        own[chosen] = coefficients[chosen] ** 2 * (m - 1) / 2
    return coefficients, own


def _product(one: Any, other: Any) -> float:
    return float((one.double() * other.double()).sum())
