"""Advantages with statistics of the whole batch.

A batch's statistics depend on which prompts were drawn, so under non-uniform draws the expected
gradient is not the uniform one, and these members preserve the objective only with uniform draws.
They are taken over the draws as they came: a deviation weighted to uniform draws would be a ratio
of two random sums, noisy and biased too. What non-uniform draws change is mostly one common factor
of the step, for as the batch grows its deviation becomes a constant.

All deviations here are population deviations over the usable responses, groups without a gradient
included; the papers do not all say which, so that much is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cost.advantages.types import GroupBatch, moments, standardised
from cost.ranges import amount, positive, require_ranges
from cost.types import FloatArray


@dataclass(frozen=True, slots=True)
class BatchDeviation:
    """(R - group mean) / (deviation of that over the batch + epsilon).

    ScaleRL's choice (2510.13786: batch-level advantage deviation), and what later versions of
    REINFORCE++ (2501.03262) call "with baseline"; the latter by second-hand accounts.
    """

    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"epsilon": amount()})

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 with mean 0 over each group and deviation about 1 over the batch."""
        seen = groups.moments
        deviation = np.sqrt(seen.squares.sum() / max(int(seen.counts.sum()), 1))
        deviations = np.full(len(groups.sizes), deviation)
        return standardised(groups, seen.means, deviations, self.epsilon)


@dataclass(frozen=True, slots=True)
class BatchStandardised:
    """(R - batch mean) / (batch deviation + epsilon): REINFORCE++ (Hu et al., 2501.03262).

    The batch mean is the baseline of every prompt, so a group whose rewards are all equal has a
    gradient. Its form with the group mean for baseline is `BatchDeviation`. The paper also puts a
    KL penalty into the reward, and divides both by the deviation; ours, like all penalties, is in
    units of advantage (`cost.advantages.penalties`).
    """

    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""

    size_free: ClassVar[bool] = True
    objective_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"epsilon": amount()})

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 with mean 0 and deviation about 1 over the batch's usable."""
        whole = moments(groups.rewards, groups.usable, np.array([len(groups.rewards)]))
        num_groups = len(groups.sizes)
        means, deviations = (
            np.repeat(whole.means, num_groups),
            np.repeat(whole.deviations(), num_groups),
        )
        return standardised(groups, means, deviations, self.epsilon)


@dataclass(frozen=True, slots=True)
class Consistency:
    """w local + (1 - w) global, by how much the answers of a group differ: COPO (2508.04138).

        H = - sum over distinct answers of p log p        entropy of the group's answers, in nats
        w = 1 / (1 + exp(-steepness (H - threshold)))

    local is (R - group mean) / group deviation. global compares prompts: (group mean - mean over
    the batch's groups) / deviation over them, the same for all responses of a group. A group that
    agrees on one answer, right or wrong, learns from the latter, about all of it: w = 9e-14.

    Constants are the paper's. It mixes two losses with w; here advantages are mixed before one
    loss (ours), which is the same on-policy and wherever nothing is clipped. Responses in which no
    answer was found count as having one and the same answer (ours).
    """

    steepness: float = 20.0
    """gamma of the formula, positive."""
    threshold: float = 1.5
    """rho of the formula: entropy in nats at which both count half, not negative."""
    epsilon: float = 1e-6
    """Added to both deviations, in units of reward, not negative."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"steepness": positive(), "threshold": amount(), "epsilon": amount()}
        require_ranges("advantage.", self, ranges)

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 advantages."""
        seen = groups.moments
        local = standardised(groups, seen.means, seen.deviations(), self.epsilon)
        between = moments(seen.means, seen.counts > 0, np.array([len(groups.sizes)]))
        deviation = between.deviations()[0]
        returns = np.zeros(len(groups.sizes))
        if deviation > 0:
            returns = (seen.means - between.means[0]) / (deviation + self.epsilon)
        shares = np.repeat(self.local_shares(groups), groups.sizes)
        mixed = shares * local + (1 - shares) * np.repeat(returns, groups.sizes)
        return np.where(groups.usable, mixed, 0.0)

    def local_shares(self, groups: GroupBatch) -> FloatArray:
        """Return [G] w of each group, in [0, 1]."""
        excess = self.steepness * (answer_entropies(groups) - self.threshold)
        shares: FloatArray = np.exp(-np.logaddexp(0.0, -excess))
        return shares


def answer_entropies(groups: GroupBatch) -> FloatArray:
    """Return [G] entropy of the answers of each group's usable responses, in nats."""
    of = groups.groups
    # Every answer is counted where the first response that gave it lies.
    firsts = (np.cumsum(groups.sizes) - groups.sizes)[of] + groups.answer_codes
    counts = np.bincount(firsts[groups.usable], minlength=len(of))
    given = counts > 0
    shares = counts[given] / groups.num_usable[of[given]]
    entropies = np.bincount(of[given], -shares * np.log(shares), minlength=len(groups.sizes))
    return np.maximum(entropies, 0.0)
