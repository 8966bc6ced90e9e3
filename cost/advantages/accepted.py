"""Advantages that tell right from wrong and nothing finer: rejection sampling and DRPO."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cost.advantages.types import GroupBatch
from cost.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class Accepted:
    """1 for an accepted response, 0 for the others: RAFT (Dong et al. 2023, 2304.06767).

    With a clipped surrogate it is RAFT++, as GVM-RAFT (2505.02391, eq. 8) writes it. There is no
    baseline: a group that is all right has a gradient, and the objective is the pass rate.
    """

    accepted_reward: float = 1.0
    """Smallest reward of an accepted response; rewards are as they are after shaping."""

    size_free: ClassVar[bool] = True
    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        _check_reward("accepted_reward", self.accepted_reward)

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 advantages, 0 or 1."""
        return _at_least(groups, self.accepted_reward).astype(np.float64)


@dataclass(frozen=True, slots=True)
class DecoupledLength:
    """Shorter right answers count more, without a penalty on long right ones: DRPO (2510.04474).

    With s the mean log-probability of a response's tokens, the paper (abstract, repository) has

        J = mean over prompts of [ sum_right w s - tau log mean_wrong exp(s / tau) ]
        w ~ exp((1 - length / max_tokens) / length_temperature), adding up to 1 over the right

    whose gradient is that of sum A s / n with A = n w for right ones and
    A = -n softmax_wrong(s / tau) for wrong ones. That needs the aggregation `sequence_mean`, which
    makes tokens count 1 / length.

    Here the softmax is taken at tau -> infinity, A = -n / (number of wrong) (ours): reports carry
    no s. With the paper's tau = 10 and s in [-1, 0] the weights differ from that by at most 10%.
    Groups that are all right or all wrong get exact zeros, as in the paper. Its trust region, a
    penalty on the KL divergence from the sampling policy, is the objective's business.
    """

    length_temperature: float = 0.1
    """lambda, in shares of `max_tokens`, positive; a large one weighs right responses alike."""
    max_tokens: int | None = None
    """Length in tokens that is 1 on that scale, positive; None for the response limit."""
    correct_reward: float = 1.0
    """Smallest reward of a right response; rewards are as they are after shaping."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True
    needs_sequence_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        _check_reward("correct_reward", self.correct_reward)
        if not self.length_temperature > 0:
            raise ValueError(
                f"advantage.length_temperature must be positive, got {self.length_temperature!r}"
            )
        if self.max_tokens is not None and not self.max_tokens > 0:
            raise ValueError(f"advantage.max_tokens must be positive, got {self.max_tokens!r}")

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64: positive for right, negative for wrong, mean 0 in each group."""
        right = _at_least(groups, self.correct_reward)
        of, num_groups = groups.groups, len(groups.sizes)
        num_usable = groups.num_usable
        num_right = np.bincount(of[right], minlength=num_groups)
        num_wrong = num_usable - num_right
        mixed = (num_right > 0) & (num_wrong > 0)
        right &= mixed[of]
        wrong = groups.usable & ~right & mixed[of]
        # Relative to the shortest right one of the group, which no temperature can make vanish.
        shortest = np.full(num_groups, np.iinfo(np.int64).max)
        np.minimum.at(shortest, of[right], groups.lengths[right])
        excess = (groups.lengths[right] - shortest[of[right]]) / (
            self.max_tokens or groups.max_tokens
        )
        weights = np.exp(-excess / self.length_temperature)
        totals = np.bincount(of[right], weights, minlength=num_groups)
        advantages = np.zeros(len(of))
        advantages[right] = num_usable[of[right]] * weights / totals[of[right]]
        advantages[wrong] = -num_usable[of[wrong]] / num_wrong[of[wrong]]
        return advantages


def _at_least(groups: GroupBatch, reward: float) -> BoolArray:
    """Return [R] True where a usable reward is that large."""
    return groups.usable & (np.where(groups.usable, groups.rewards, -np.inf) >= reward)


def _check_reward(key: str, value: float) -> None:
    if not np.isfinite(value):
        raise ValueError(f"advantage.{key} must be finite, got {value!r}")
