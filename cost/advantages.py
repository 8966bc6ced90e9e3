"""Plug `advantage`: how much better each response was than its group.

Contract: `advantages(rewards [n], usable [n]) -> [n] float64`, from the full group, before any
thinning; 0 where a reward is not usable. A group with fewer than two usable rewards, or with equal
ones, gets exact zeros: it carries no gradient, and rounding must not invent one.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from cost.types import BoolArray, FloatArray


class Advantage(Protocol):
    """Turns the rewards of one group into advantages."""

    size_free: ClassVar[bool]
    """Whether the expected group gradient is the same for groups of every size from two on."""

    def advantages(self, rewards: FloatArray, usable: BoolArray) -> FloatArray:
        """Return [n] float64 advantages.

        Args:
            rewards: [n] float64, any value where not usable.
            usable: [n] True where the reward may be used.
        """


@dataclass(frozen=True, slots=True)
class GroupStandardised:
    """(R - mean) / (population standard deviation + epsilon): GRPO (DeepSeekMath, 2402.03300)."""

    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""

    size_free: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.epsilon >= 0:
            raise ValueError(f"advantage.epsilon must not be negative, got {self.epsilon!r}")

    def advantages(self, rewards: FloatArray, usable: BoolArray) -> FloatArray:
        """Return [n] float64 with mean 0 and population deviation about 1 over the usable."""
        centred = _centred(rewards, usable)
        if not centred.any():
            return centred
        population_deviation = np.sqrt(np.mean(centred[usable] ** 2))
        standardised: FloatArray = centred / (population_deviation + self.epsilon)
        return standardised


@dataclass(frozen=True, slots=True)
class GroupMean:
    """R - mean: Dr. GRPO (Liu et al. 2025, 2503.20783); no bias to easy and hard prompts.

    A group of n has (n - 1) / n of the expected gradient.
    """

    size_free: ClassVar[bool] = False

    def advantages(self, rewards: FloatArray, usable: BoolArray) -> FloatArray:
        """Return [n] float64 with mean 0 over the usable."""
        return _centred(rewards, usable)


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """R - mean of the others, n / (n - 1) of `GroupMean`: RLOO (Ahmadian et al., 2402.14740)."""

    size_free: ClassVar[bool] = True

    def advantages(self, rewards: FloatArray, usable: BoolArray) -> FloatArray:
        """Return [n] float64 with mean 0 over the usable."""
        num_usable = int(usable.sum())
        return _centred(rewards, usable) * (num_usable / max(num_usable - 1, 1))


def _centred(rewards: FloatArray, usable: BoolArray) -> FloatArray:
    """Rewards minus the mean of the usable; exact zeros where there is nothing to compare."""
    centred = np.zeros(len(rewards))
    scored = rewards[usable]
    if len(scored) >= 2 and scored.max() > scored.min():
        centred[usable] = scored - scored.mean()
    return centred
