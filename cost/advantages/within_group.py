"""Advantages that compare the responses of a group with each other, and nothing else."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cost.advantages.types import GroupBatch, Moments, centred, standardised
from cost.ranges import amount, require_ranges
from cost.types import FloatArray


@dataclass(frozen=True, slots=True)
class GroupStandardised:
    """(R - mean) / (standard deviation + epsilon): GRPO (DeepSeekMath, 2402.03300)."""

    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""
    ddof: int = 0
    """0 for the population deviation, 1 for the sample deviation, which divides by n - 1 and whose
    advantages are smaller by sqrt((n - 1) / n)."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"epsilon": amount()})
        if self.ddof not in (0, 1):
            raise ValueError(f"advantage.ddof must be 0 or 1, got {self.ddof!r}")

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 with mean 0 and deviation about 1 over each group's usable."""
        moments = groups.moments
        return standardised(groups, moments.means, moments.deviations(self.ddof), self.epsilon)


@dataclass(frozen=True, slots=True)
class EntropyAware:
    """A (1 + weight z), A of `GroupStandardised` and z of how unsure tools left the policy.

    z is the change of entropy from a response's first turn to its later ones, standardised over
    its group's usable responses as rewards are: whatever becomes of it, right or wrong, a response
    counts more whose later turns were less certain. Where all turns are alike, as in single ones, z
    is 0. A factor below 0 would turn an advantage round and is taken as 0.

    Source: the entropy-aware advantage of agentic AEPO (arXiv:2510.14545, read second-hand), of
    which the weight is not known and the estimate of entropy is ours.
    """

    weight: float = 0.3
    """What a deviation more of entropy adds to the size of an advantage, not negative."""
    epsilon: float = 1e-6
    """Added to both deviations, not negative."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"weight": amount(), "epsilon": amount()})

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 of the signs of `GroupStandardised`."""
        of_rewards = GroupStandardised(self.epsilon).advantages(groups)
        if groups.entropy_changes is None:
            return of_rewards
        of_entropies = GroupStandardised(self.epsilon).advantages(
            replace(groups, rewards=groups.entropy_changes)
        )
        factors: FloatArray = np.maximum(1.0 + self.weight * of_entropies, 0.0)
        return of_rewards * factors


@dataclass(frozen=True, slots=True)
class GroupMean:
    """R - mean: Dr. GRPO (Liu et al. 2025, 2503.20783); no bias to easy and hard prompts.

    A group of n has (n - 1) / n of the expected gradient of a large one.
    """

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 with mean 0 over each group's usable."""
        return centred(groups, groups.moments.means)


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """R - mean of the others, n / (n - 1) of `GroupMean`: RLOO (Ahmadian et al., 2402.14740)."""

    size_free: ClassVar[bool] = True
    objective_preserving: ClassVar[bool] = True

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 with mean 0 over each group's usable."""
        moments = groups.moments
        scales = moments.counts / np.maximum(moments.counts - 1, 1)
        advantages: FloatArray = centred(groups, moments.means) * np.repeat(scales, groups.sizes)
        return advantages


@dataclass(frozen=True, slots=True)
class VirtualBest:
    """(R - mean) / (sample deviation + epsilon) as if one more response had the best reward: NGRPO.

    The virtual response counts in the statistics of every group and is not trained on. A group
    that is all wrong gets negative advantages instead of none, -1/3 each for 8 responses and a
    best reward of 1; one that is all best gets exact zeros. Source: NGRPO as its repository and
    abstract state it, epsilon of 1e-6 included; its asymmetric clip is the objective's.
    """

    best_reward: float = 1.0
    """Reward of the virtual response: the largest that the task gives."""
    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"epsilon": amount()})
        if not np.isfinite(self.best_reward):
            raise ValueError(f"advantage.best_reward must be finite, got {self.best_reward!r}")

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64; their mean over a group's usable is not positive."""
        seen = groups.moments
        best = np.full(len(groups.sizes), self.best_reward)
        virtual = Moments(np.ones_like(seen.counts), best, np.zeros(len(best)))
        both = seen.pooled(virtual)
        return standardised(groups, both.means, both.deviations(ddof=1), self.epsilon)
