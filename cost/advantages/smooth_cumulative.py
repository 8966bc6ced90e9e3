"""Advantages smoothed with what a prompt's earlier visits earned: DCPO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cost.advantages.types import GroupBatch, Moments, moments, standardised
from cost.prompts import PromptPool, Visit, by_occurrence
from cost.ranges import amount, require_ranges
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class SmoothCumulativeState:
    """What each prompt's visits earned so far; 32 bytes a prompt."""

    num_visits: IntArray
    """[N] number of groups that had a usable reward."""
    rewards: Moments
    """Moments of each prompt's usable rewards over all its visits; its arrays are [N]."""


@dataclass(frozen=True, slots=True)
class SmoothCumulative:
    """Smooth standardisation of DCPO (Yang et al. 2025, 2509.02333).

    At the i-th visit of a prompt, A_new is standardised with the group's mean and population
    deviation, A_tot with those of all rewards of the prompt so far, this group's included:

        SA_new = ((i - 1) / i) A_new + (1 / i) A_tot
        SA_tot = ((i - 1) / i) A_tot + (1 / i) A_new

    and each response gets the one of smaller magnitude. A group that is all right now has a
    gradient if the prompt was mixed before. The pooled variance is exact (the form is ours).

    Earlier visits are those folded into the statistics: with staleness, or a prompt drawn twice
    for one batch, the groups still under way are not among them. Pilots and filtered groups are.
    Given what was seen before, a group's advantages do not depend on the draws of its batch, in
    which sense the objective is preserved; how smooth a prompt's advantages are depends on how
    often it was drawn.
    """

    epsilon: float = 1e-6
    """Added to both deviations, in units of reward, not negative."""

    size_free: ClassVar[bool] = False
    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("advantage.", self, {"epsilon": amount()})

    def initial_state(self, prompts: PromptPool) -> SmoothCumulativeState:
        """Return the state without a visit."""
        size = prompts.num_prompts
        nothing = Moments(np.zeros(size, dtype=np.int64), np.zeros(size), np.zeros(size))
        return SmoothCumulativeState(np.zeros(size, dtype=np.int64), nothing)

    def update(
        self, state: SmoothCumulativeState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> SmoothCumulativeState:
        """Take in visits, oldest first; groups without a usable reward are no visits."""
        if not visits:
            return state
        seen = moments(
            np.concatenate([visit.report.rewards for visit in visits]),
            np.concatenate([visit.usable for visit in visits]),
            np.array([visit.report.num_responses for visit in visits]),
        )
        scored = np.flatnonzero(seen.counts)
        indices = np.array([visit.report.prompt_index for visit in visits])[scored]
        rewards = state.rewards
        num_visits = state.num_visits + np.bincount(indices, minlength=prompts.num_prompts)
        rewards = Moments(rewards.counts.copy(), rewards.means.copy(), rewards.squares.copy())
        for visit in by_occurrence(indices):
            prompt = indices[visit]
            pooled = _at(rewards, prompt).pooled(_at(seen, scored[visit]))
            rewards.counts[prompt] = pooled.counts
            rewards.means[prompt] = pooled.means
            rewards.squares[prompt] = pooled.squares
        return SmoothCumulativeState(num_visits, rewards)

    def advantages(self, groups: GroupBatch, state: SmoothCumulativeState) -> FloatArray:
        """Return [R] float64 advantages."""
        now, before = groups.moments, _at(state.rewards, groups.prompt_indices)
        both = before.pooled(now)
        # A group that is in the state already must not count twice.
        total = Moments(
            np.where(groups.folded, before.counts, both.counts),
            np.where(groups.folded, before.means, both.means),
            np.where(groups.folded, before.squares, both.squares),
        )
        visit = np.maximum(state.num_visits[groups.prompt_indices] + ~groups.folded, 1)
        later = np.repeat((visit - 1) / visit, groups.sizes)
        own = standardised(groups, now.means, now.deviations(), self.epsilon)
        cumulative = standardised(groups, total.means, total.deviations(), self.epsilon)
        smooth_own = later * own + (1 - later) * cumulative
        smooth_cumulative = later * cumulative + (1 - later) * own
        return np.where(
            np.abs(smooth_own) <= np.abs(smooth_cumulative), smooth_own, smooth_cumulative
        )


def _at(whole: Moments, indices: IntArray) -> Moments:
    return Moments(whole.counts[indices], whole.means[indices], whole.squares[indices])
