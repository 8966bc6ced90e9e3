"""GRESO (arXiv 2506.02177): skip prompts whose recent groups had no variance in their rewards.

    walk the prompts in epoch order, each skipped with probability 1 - max(p^streak, floor)
      -> tickets -> groups without variance are left out, as in dynamic sampling
      -> streaks, and p moved toward a target share of such groups

A prompt's streak counts its most recent consecutive visits without variance of one kind: easy (mean
reward at least .98) or hard (at most .11), each kind with its p. The thresholds, the floor of .01,
the controller's numbers and the sizes of generation batches are those of the authors' code. Ours:

- A group needs equal rewards to count, as the paper's text says; the code looks at the mean alone,
  which agrees for 8 responses with rewards 0 or 1. Equal rewards with a mean between the kinds end
  a streak, as they do in the code.
- A group with fewer than two usable rewards tells nothing and leaves the streak as it is.
- The first round of a batch is sized by the last folded batch's share of groups without variance;
  the code starts each batch with the largest round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cost.draws.allocators.filtering import Filtering, mixed, walk, whole
from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates, Snapshot
from cost.prompts import PromptPool, Visit
from cost.ranges import amount, count, positive, require_ranges
from cost.types import FloatArray, IntArray

LONGEST_STREAK = np.iinfo(np.int16).max


@dataclass(frozen=True, slots=True)
class GresoState:
    """What the prompts' last visits were, and where controller and draws stand."""

    draws: Any
    """The state of the draws, whose position is that of the walk."""
    rounds: int
    """How many rounds of the open batch were drawn."""
    num_walked: int
    """How many prompts the walk has passed, drawn or skipped."""
    streaks: npt.NDArray[np.int16]
    """[M <= N] length of the present streak, positive for easy and negative for hard; 0 for none,
    and for prompts beyond M."""
    p_easy: float
    """Chance of keeping an easy prompt after one visit."""
    p_hard: float
    """Chance of keeping a hard prompt after one visit."""
    zero_variance_share: float
    """Share of the last folded batch's groups that had no variance, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Greso(Filtering):
    """Skips prompts by their streaks, and draws until P groups have rewards that differ.

    Published without correction: a skipped prompt is drawn less and nothing makes up for it, so
    the objective is not preserved, `correct` or not (see `cost.draws.allocators.filtering`).
    """

    p_start: float = 0.5
    """The p of both kinds at the start, in [p_min, p_max]."""
    p_min: float = 0.05
    """Least p, in (0, p_max]."""
    p_max: float = 0.95
    """Largest p, at most 1."""
    p_step: float = 0.01
    """How far p moves with one batch, not negative."""
    floor: float = 0.01
    """Least chance of keeping a prompt, in (0, 1], so that every prompt returns."""
    zero_variance_target: float = 0.25
    """Share of groups without variance that the controller steers to, a third of it for easy and
    two thirds for hard ones, in [0, 1]."""
    easy_mean: float = 0.98
    """Least mean reward of an easy group."""
    hard_mean: float = 0.11
    """Largest mean reward of a hard group, below `easy_mean`."""
    oversample: float = 1.25
    """Tickets per missing group, over the share expected to be mixed; at least 1."""
    min_tickets: int | None = None
    """Least tickets in a round, at least 1; None for P / 4, the published 64 of 256."""
    max_tickets: int | None = None
    """Most tickets in a round; None for 1.5 P, the published 384 of 256."""
    correct: bool = False
    """Whether weights undo the skipping: 1 / (N p) with p in proportion to the chance of being
    kept, at most 1 / floor (derived by us; exact for skip chances that stay the same for a pass).
    They do not undo the filtering."""

    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        Filtering.__post_init__(self)
        if not 0 < self.p_min <= self.p_max <= 1:
            raise ValueError(
                "allocator.p_min must lie in (0, p_max] and p_max be at most 1, "
                f"got {self.p_min!r} and {self.p_max!r}"
            )
        if not self.p_min <= self.p_start <= self.p_max:
            raise ValueError(
                f"allocator.p_start must lie in [{self.p_min!r}, {self.p_max!r}], "
                f"got {self.p_start!r}"
            )
        ranges = {
            "p_step": amount(),
            "floor": positive(1),
            "zero_variance_target": amount(1),
            "oversample": count(),
            "min_tickets": count(),
            "max_tickets": count(),
        }
        require_ranges("allocator.", self, ranges)
        if not self.hard_mean < self.easy_mean:
            raise ValueError(
                f"allocator.hard_mean must be below easy_mean = {self.easy_mean!r}, "
                f"got {self.hard_mean!r}"
            )

    def initial_state(self, prompts: PromptPool) -> GresoState:
        """Return the state without a visit."""
        return GresoState(
            draws=self.draws.initial_state(prompts.num_prompts),
            rounds=0,
            num_walked=0,
            streaks=np.zeros(prompts.num_prompts, dtype=np.int16),
            p_easy=self.p_start,
            p_hard=self.p_start,
            zero_variance_share=0.0,
        )

    def update(self, state: GresoState, prompts: PromptPool, visits: Sequence[Visit]) -> GresoState:
        """Take in one batch's visits, filtered ones included, then move both p.

        Both p stay until the walk has passed as many prompts as there are, the first epoch.
        """
        scored = [visit for visit in visits if visit.usable.sum() >= 2]
        if not scored:
            return state
        streaks = state.streaks.copy()
        kinds = np.array([self._kind(visit.report.rewards[visit.usable]) for visit in scored])
        for visit, kind in zip(scored, kinds.tolist(), strict=True):
            index = visit.report.prompt_index
            before = int(streaks[index])
            streak = kind + (before if before * kind > 0 else 0)
            streaks[index] = max(-LONGEST_STREAK, min(streak, LONGEST_STREAK))
        easy, hard = float((kinds > 0).mean()), float((kinds < 0).mean())
        p_easy, p_hard = state.p_easy, state.p_hard
        if state.num_walked >= prompts.num_prompts:
            target = self.zero_variance_target
            p_easy = self._moved(p_easy, easy, target / 3)
            p_hard = self._moved(p_hard, hard, 2 * target / 3)
        return replace(
            state,
            streaks=streaks,
            p_easy=p_easy,
            p_hard=p_hard,
            zero_variance_share=1 - float(np.mean([mixed(visit.report) for visit in scored])),
        )

    def allocate(self, estimates: Estimates, state: GresoState) -> Allocation:
        """Return shares in proportion to the chance of being kept when the walk comes by."""
        size = len(estimates.costs)
        keep = self.keep_probabilities(state)
        shares = keep / keep.sum()
        weights = 1.0 / (size * shares) if self.correct else np.ones(size)
        return Allocation(probabilities=shares, weights=weights)

    def keep_probabilities(self, state: GresoState) -> FloatArray:
        """Return [N] chance of being drawn when the walk comes by, in [floor, 1]."""
        streaks = state.streaks
        p = np.where(streaks > 0, state.p_easy, state.p_hard)
        kept: FloatArray = np.maximum(p ** np.abs(streaks.astype(np.int64)), self.floor)
        return kept

    def num_tickets(self, missing: int, so_far: BatchSoFar, state: GresoState) -> int:
        """Return oversample * missing / (share expected to be mixed), within the bounds."""
        share = 1 - state.zero_variance_share
        if so_far.reports:
            share = float(np.mean([mixed(report) for report in so_far.reports]))
        most = self.max_tickets or math.ceil(1.5 * so_far.num_groups)
        least = self.min_tickets or math.ceil(so_far.num_groups / 4)
        if share * most <= self.oversample * missing:
            return max(most, least)
        return max(whole(self.oversample * missing / share), least)

    def pick(
        self, count: int, snapshot: Snapshot, rng: np.random.Generator, state: GresoState
    ) -> tuple[IntArray, GresoState]:
        """Walk on until `count` prompts were not skipped."""
        keep = self.keep_probabilities(state)
        indices, num_met, draws = walk(self.draws, state.draws, snapshot.prepared, keep, count, rng)
        return indices, replace(state, draws=draws, num_walked=state.num_walked + num_met)

    def _kind(self, rewards: FloatArray) -> int:
        """Return 1 for an easy, -1 for a hard group, 0 for all others."""
        if rewards.max() > rewards.min():
            return 0
        mean = float(rewards.mean())
        return int(mean >= self.easy_mean) - int(mean <= self.hard_mean)

    def _moved(self, p: float, share: float, target: float) -> float:
        moved = p - self.p_step if share >= target else p + self.p_step
        return max(self.p_min, min(moved, self.p_max))
