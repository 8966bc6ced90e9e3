"""Plug `reuse`: learning once more from what was generated, earlier batches or the same one.

    the A batches before -> a coin a response -> weights -> joined to the batch -> learners
    the batch itself     -> a coin a response -> weights -> a step of their own -> learners

A step that has A earlier batches at hand, at most `max_age`, takes the mean of A + 1 estimates,

    g   = 1 / (A + 1) sum_{d = 0..A} g_d
    g_d = (1 / P_d) sum_k weight_k (1 / n_k) sum_j (z_kj / q_kj) a_kj advantage_kj (gradient)_kj

g_0 is the batch's own, with the coins of its thinning. g_d is that of the batch d before, with its
own tickets' weights, advantages of its full groups and fresh coins z of probability q. Whatever the
coins give, each estimate counts the same: A follows from the number of the batch and from what was
learned before, never from this batch. So for weights that know nothing of the responses the mean of
g is the uniform objective's gradient, up to truncation: older responses come from older policies,
which the objective's ratio to the stored log-probabilities makes up for until it is clipped.

One bias no ratio undoes: the present weights have learned from these responses once, so that they
are better on them than on new ones. A second pass over a batch has it as well: a step by g_0, with
fresh coins, after the batch's own step. Formulas are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from cost.ranges import amount, count, positive, require_ranges
from cost.thinning.thinning import Candidates, CostAware, Thinning
from cost.types import Selection


@runtime_checkable
class Reuse(Protocol):
    """Decides when and from which responses, earlier ones or a batch's own, to learn once more."""

    max_age: int
    """Earlier batches that are held and join a batch's step; 0 for a second step from the batch's
    own responses."""

    def opens(self, batch: int, effective_share: float) -> bool:
        """Whether anything is learned from once more with a batch.

        Args:
            batch: Number of the batch, from 0.
            effective_share: (sum r)^2 / (n sum r^2) of the ratios r of learner to rollout
                probability over the n tokens of the step before, or of the last second step, if the
                batch before had one; NaN where there was none.
        """

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Draw the responses of one batch to learn from once more."""


@dataclass(frozen=True, slots=True)
class Again:
    """Base of the members: learns a second time from a part of a batch's responses.

    It does so from `first_batch` on, unless the step before showed that ratios have gone too far.
    """

    budget: float = 0.25
    """Share of the cost of a batch's responses of advantage other than 0 to spend, in (0, 1]."""
    floor: float = 0.02
    """Least keep probability of a candidate, in (0, 1], as in `CostAware`."""
    first_batch: int = 10
    """First batch with which anything is learned a second time: in the first steps of a run the
    policy moves far, and responses of the policy that it has left mislead."""
    least_effective_share: float = 0.5
    """If the tokens of a step have a smaller effective share, nothing is learned a second time with
    the next batch, in [0, 1]."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {
            "budget": positive(1),
            "floor": positive(1),
            "first_batch": amount(),
            "least_effective_share": amount(1),
        }
        require_ranges("reuse.", self, ranges)

    def opens(self, batch: int, effective_share: float) -> bool:
        """Whether anything is learned from once more with a batch."""
        return batch >= self.first_batch and not effective_share < self.least_effective_share

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Keep by systematic sampling with water-filled probabilities, as `CostAware` does."""
        return CostAware(budget=self.budget, floor=self.floor).thin(candidates, rng)


@dataclass(frozen=True, slots=True)
class SecondPass(Again):
    """Learn from a batch once more, in a second step of its own."""

    @property
    def max_age(self) -> int:
        """Return 0: no earlier batch is held."""
        return 0


@dataclass(frozen=True, slots=True)
class EarlierBatches(Again):
    """Learn from earlier batches once more, beside the present one."""

    max_age: int = 1
    """Batches before the present one that are learned from, at least 1; so many are held."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("reuse.", self, {"max_age": count(1000)})
        Again.__post_init__(self)


def joined(
    own: Sequence[Selection], earlier: Sequence[Sequence[Selection]]
) -> tuple[list[Selection], list[Selection]]:
    """Give the estimate of every batch the same share of a step.

    The learner divides the sum over all groups that it is given by the number of plain ones among
    them; the weights returned make up for that. Exploring groups, a term of their own, keep theirs.

    Args:
        own: One a member of the batch, exploring ones among them.
        earlier: One list an earlier batch, one selection for each of its P_d plain groups.

    Returns:
        `own` with new weights; and with new weights those of `earlier` that keep anything.
    """
    num_plain = sum(not selection.exploring for selection in own)
    again = [(one, len(batch)) for batch in earlier for one in batch if one.keep.any()]
    num_groups = num_plain + len(again)
    share = 1 / (1 + len(earlier))
    return (
        [_scaled(one, num_groups * (1 if one.exploring else share) / num_plain) for one in own],
        [_scaled(one, num_groups * share / count) for one, count in again],
    )


def _scaled(selection: Selection, factor: float) -> Selection:
    return replace(selection, weight=factor * selection.weight)
