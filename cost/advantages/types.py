"""Contract of the plug `advantage`, and the statistics of groups that its members share.

Contract, beside the learning methods of cost/state.py: `advantages(groups) -> [R] float64`, of all
groups of a batch at once, from the full groups, before any thinning; 0 where a reward is not
usable. Responses without a usable reward are left out: the others get what they would get without
them. Penalties are no part of it: `cost.advantages.penalties` adds theirs to what comes out.

`size_free` and `objective_preserving` tell what a member's choice means for the rest; see
`Advantage`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray, LengthReport


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """G scored groups; their R responses lie end to end, group after group."""

    rewards: FloatArray
    """[R] rewards; where a reward is not usable it may be any value."""
    usable: BoolArray
    """[R] True where the reward may be used."""
    lengths: IntArray
    """[R] tokens of each response."""
    answer_codes: IntArray
    """[R] position within its group of the first response with the same answer, from 0."""
    sizes: IntArray
    """[G] responses of each group, 0 for a ticket that failed."""
    prompt_indices: IntArray
    """[G] index of each group's prompt."""
    folded: BoolArray
    """[G] True where the group is one of the visits that made the state."""
    max_tokens: int
    """Largest number of tokens in one response."""
    entropy_changes: FloatArray | None = None
    """[R] of each response, see `cost.types.LengthReport`; None where it is not known."""

    @property
    def groups(self) -> IntArray:
        """[R] position of each response's group."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def num_usable(self) -> IntArray:
        """[G] usable responses of each group."""
        return np.bincount(self.groups[self.usable], minlength=len(self.sizes))

    @property
    def moments(self) -> "Moments":
        """Number, mean and spread of the usable rewards of each group."""
        return moments(self.rewards, self.usable, self.sizes)


@runtime_checkable
class Advantage(Protocol):
    """Turns the rewards of a batch into advantages."""

    size_free: ClassVar[bool]
    """Whether the expected group gradient is the same for groups of every size from two on, up to
    one factor for the whole batch."""
    objective_preserving: ClassVar[bool]
    """Whether a group's advantages do not depend on the other groups of its batch, so that weights
    undo non-uniform draws. Where they do, the objective is that of the draws as they came."""

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] float64 advantages, finite; a member that learns also takes `state=`."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, mean and spread of the counted values of each of G groups."""

    counts: IntArray
    """[G] values counted."""
    means: FloatArray
    """[G] means; exactly the value where all are equal, 0 where there is none."""
    squares: FloatArray
    """[G] sum of squared deviations from the mean; exactly 0 where all are equal."""

    def deviations(self, ddof: int = 0) -> FloatArray:
        """[G] standard deviations, sqrt(squares / (counts - ddof)); 0 for too few values."""
        deviations: FloatArray = np.sqrt(self.squares / np.maximum(self.counts - ddof, 1))
        return deviations

    def pooled(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of values together, group by group.

        It is the exact form with the difference of the means (Chan, Golub and LeVeque 1979).
        """
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1)
        steps = other.means - self.means
        return Moments(
            counts=counts,
            means=self.means + steps * share,
            squares=self.squares + other.squares + steps**2 * self.counts * share,
        )


def group_batch(
    reports: Sequence[LengthReport], max_tokens: int, folded: BoolArray | None = None
) -> GroupBatch:
    """Lay checked reports end to end.

    Args:
        reports: G reports, empty ones included, at least one.
        max_tokens: Largest number of tokens in one response.
        folded: [G] True where the report was folded into the states; None where none was.
    """
    return GroupBatch(
        rewards=np.concatenate([report.rewards for report in reports]),
        usable=np.concatenate([report.usable for report in reports]),
        lengths=np.concatenate([report.lengths for report in reports]),
        answer_codes=np.concatenate([report.answer_codes for report in reports]),
        sizes=np.array([report.num_responses for report in reports]),
        prompt_indices=np.array([report.prompt_index for report in reports]),
        folded=np.zeros(len(reports), dtype=bool) if folded is None else folded,
        max_tokens=max_tokens,
        entropy_changes=np.concatenate([report.entropy_changes for report in reports]),
    )


def moments(values: FloatArray, counted: BoolArray, sizes: IntArray) -> Moments:
    """Return the moments of each group's counted values.

    Args:
        values: [R] values of all groups end to end; those not counted may be NaN.
        counted: [R] True for values to count.
        sizes: [G] values of each group, counted or not; they add up to R.
    """
    groups = np.repeat(np.arange(len(sizes)), sizes)[counted]
    values = values[counted]
    counts = np.bincount(groups, minlength=len(sizes))
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    means, squares = np.zeros(len(sizes)), np.zeros(len(sizes))
    # Clipped, since a mean of equal numbers may round to another number.
    means[filled] = np.clip(
        np.add.reduceat(values, starts) / counts[filled],
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )
    squares[filled] = np.add.reduceat((values - means[groups]) ** 2, starts)
    return Moments(counts=counts, means=means, squares=squares)


def centred(groups: GroupBatch, means: FloatArray) -> FloatArray:
    """Return [R] rewards minus their group's entry of `means` [G]; 0 where not usable."""
    return np.where(groups.usable, groups.rewards - np.repeat(means, groups.sizes), 0.0)


def standardised(
    groups: GroupBatch, means: FloatArray, deviations: FloatArray, epsilon: float
) -> FloatArray:
    """Return [R] (reward - mean) / (deviation + epsilon); 0 where not usable or no deviation.

    Args:
        groups: The groups whose rewards are standardised.
        means: [G] what is subtracted from the rewards of each group.
        deviations: [G] what they are divided by.
        epsilon: Added to the deviations, not negative.
    """
    repeated = np.repeat(deviations, groups.sizes)
    differences = centred(groups, means)
    return np.divide(
        differences, repeated + epsilon, out=np.zeros(len(differences)), where=repeated > 0
    )
