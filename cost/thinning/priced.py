"""Thinning without a budget: keep what lowers (cost of a batch) x (variance of its gradient).

A run of B FLOPs (or seconds, or tokens) takes B / C batches that cost C each, so that what noise
leaves in its mean gradient is V C / B with V the variance of one batch. So C V is to be least. A
batch that generated for C_g and keeps response j, of gradient norm G_j and price c_j, with q_j has

    C = C_g + sum_j q_j c_j            V = sampling sum_j G_j^2 + sum_j G_j^2 (1 / q_j - 1)

The first part of V is that of which prompts and responses were sampled, all of them kept: gradients
of different responses are about orthogonal, so that their squares add up (`sampling` = 1); the
second is the thinning's own (independent inclusion). Setting d(C V) / d q_j = 0,

    c_j V = C G_j^2 / q_j^2,      q_j = min(1, s G_j / sqrt(c_j)),      s^2 = C / V

C V falls with s while s^2 < C / V and grows beyond, and C / V grows with s: taking s from what
batches cost and varied so far leads to the one minimum, from either side, and faster the smaller
the part of C that goes to responses kept by chance. No response is left out that is worth its
price: with dear generation and responses that are alike all are kept.

A prompt that the learner computes once for its group is paid for if anything of the group is kept,
with probability 1 - prod_j (1 - q_j). So C has that in place of copies, and c_j is what response j
adds: its own part, and the prompt by the chance that nothing else of its group is kept,

    c_j = own_j + prompt prod_{i != j} (1 - q_i)

The q of a group depend on each other by this, and are found by iteration from q = 1: the smaller
the others' q, the larger c_j, so that every q falls from step to step, to the largest solution.

s is computed from earlier batches alone, the older ones discounted. It may depend on anything that
was known before the batch: q_j stays the probability of keeping j, and 1 / q_j undoes it. Scores
may have any scale, as long as it stays the same from batch to batch. The derivation is ours; the
rule q ~ G / sqrt(c) is Cost-Aware GRPO's (2604.28020).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cost.prompts import PromptPool, Visit
from cost.ranges import amount, positive, require_ranges
from cost.thinning.thinning import Candidates, Thinning, chosen_of, sampled
from cost.types import FloatArray, IntArray

MOST_STEPS, CLOSE_ENOUGH = 100, 1e-9
"""When the iteration for the keep probabilities of groups with a shared prompt ends."""


@dataclass(frozen=True, slots=True)
class SpentState:
    """What batches cost and varied, each discounted by those after it.

    Example: SpentState(cost=5.4e10, variance=0.031, last_cost=2.1e10, last_variance=0.012)
    """

    cost: float = 0.0
    """Of the batches before the present one, in the price's unit."""
    variance: float = 0.0
    """The same for the variance, in squared units of the scores."""
    last_cost: float = 0.0
    """Of the present batch, 0 before its first pass."""
    last_variance: float = 0.0
    """The same for the variance."""

    @property
    def scale(self) -> float:
        """The s of the rule; infinite while nothing is known, so that all is kept."""
        if not (self.cost > 0 and self.variance > 0):
            return math.inf
        return math.sqrt(self.cost / self.variance)


@dataclass(frozen=True, slots=True)
class Priced:
    """Keep with q = min(1, s score / sqrt(cost)), s^2 = cost so far over variance so far.

    A response of advantage exactly 0 is left out, as in `CostAware`. What generating cost is that
    of the batch's own responses; pilots and filtered groups are left out.
    """

    floor: float = 0.02
    """Least q of a candidate, in (0, 1]; weights are at most 1 / floor of the ticket's."""
    decay: float = 0.9
    """What a batch counts in cost and variance so far after one more batch, in [0, 1]."""
    sampling: float = 1.0
    """Variance of a batch's whole gradient over the sum of its responses' squared norms, positive;
    more than 1 where responses of a group pull the same way."""
    keep_zero_advantage: bool = False
    """Whether responses of advantage 0 are candidates; they get the floor, unless all is kept."""

    objective_preserving: ClassVar[bool] = True
    needs_generating_costs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"floor": positive(1), "decay": amount(1), "sampling": positive()}
        require_ranges("thinning.", self, ranges)

    @property
    def keeps_zero_advantage(self) -> bool:
        """Whether every usable response of advantage 0 is kept with a positive probability."""
        return self.keep_zero_advantage

    def initial_state(self, prompts: PromptPool) -> SpentState:
        """Return the state that knows no batch."""
        return SpentState()

    def update(self, state: SpentState, prompts: PromptPool, visits: Sequence[Visit]) -> SpentState:
        """Return the state unchanged: it learns from what is selected, not from what is folded."""
        return state

    def entered(self, state: SpentState) -> SpentState:
        """Return the state at the start of a new batch, from which the one before it counts."""
        return SpentState(
            cost=self.decay * state.cost + state.last_cost,
            variance=self.decay * state.variance + state.last_variance,
        )

    def thin(
        self, candidates: Candidates, rng: np.random.Generator, state: SpentState | None = None
    ) -> Thinning:
        """Keep by systematic sampling; without a state all candidates."""
        q = self.probabilities(candidates, (state or SpentState()).scale)
        thinning = sampled(candidates.costs, q, self.floor, rng)
        return replace(thinning, metrics=thinning.metrics | self._metrics(candidates, q))

    def thinned(self, state: SpentState, candidates: Candidates, thinning: Thinning) -> SpentState:
        """Return the state after the first pass over a batch; `entered` makes it count."""
        cost, variance = self.spent(candidates, thinning.probabilities)
        return replace(state, last_cost=cost, last_variance=variance)

    def probabilities(self, candidates: Candidates, scale: float) -> FloatArray:
        """Return [M] keep probabilities at a scale s; 0 for what is not a candidate."""
        chosen = chosen_of(candidates, self.keep_zero_advantage)
        q = np.zeros(len(chosen))
        q[chosen] = 1.0
        if math.isinf(scale):
            return q
        prompts = candidates.prompt_costs
        own = candidates.costs if prompts is None else candidates.costs - prompts
        for _ in range(MOST_STEPS):
            costs = (
                own if prompts is None else own + prompts * _others_left_out(q, candidates.groups)
            )
            before = q
            q = np.zeros(len(chosen))
            ratio = candidates.scores[chosen] / np.sqrt(costs[chosen])
            q[chosen] = np.clip(scale * ratio, self.floor, 1.0)
            if prompts is None or np.abs(q - before).max(initial=0.0) < CLOSE_ENOUGH:
                break
        return q

    def spent(self, candidates: Candidates, q: FloatArray) -> tuple[float, float]:
        """Return C and V of a batch that is thinned by [M] keep probabilities."""
        can = q > 0
        squares = candidates.scores[can] ** 2
        cost = candidates.generating_cost + float(candidates.costs @ q)
        if candidates.prompt_costs is not None:
            left_out = _left_out(q, candidates.groups)
            prompts = np.zeros(len(left_out))
            prompts[candidates.groups] = candidates.prompt_costs
            # Copies are in the costs; one a group is paid for.
            cost += float(prompts @ (1 - left_out) - candidates.prompt_costs @ q)
        return cost, float((squares * (1 / q[can] - 1 + self.sampling)).sum())

    def _metrics(self, candidates: Candidates, q: FloatArray) -> dict[str, float]:
        can = q > 0
        cost, variance = self.spent(candidates, q)
        all_cost, all_variance = self.spent(candidates, can.astype(np.float64))
        candidate_costs = float(candidates.costs[can].sum())
        metrics = {
            "cost/thinning_chosen_share": float(candidates.costs @ q) / candidate_costs
            if candidate_costs
            else 1.0,
        }
        if variance > 0:
            floored = can & (q <= self.floor)
            parts = candidates.scores[floored] ** 2 / q[floored]
            metrics["cost/thinning_floored_variance_share"] = float(parts.sum()) / variance
            metrics["cost/thinning_priced_saving_estimated"] = 1 - cost * variance / (
                all_cost * all_variance
            )
        return metrics


def _logarithms(q: FloatArray) -> FloatArray:
    # Nearly certain stands for certain, whose logarithm has no difference to another.
    logarithms: FloatArray = np.log1p(-np.minimum(q, 1 - 1e-12))
    return logarithms


def _left_out(q: FloatArray, groups: IntArray) -> FloatArray:
    """Return [G] the chance that nothing of a group is kept."""
    found: FloatArray = np.exp(np.bincount(groups, weights=_logarithms(q)))
    return found


def _others_left_out(q: FloatArray, groups: IntArray) -> FloatArray:
    """Return [M] the chance that nothing else of the group is kept."""
    own = _logarithms(q)
    found: FloatArray = np.exp(np.bincount(groups, weights=own)[groups] - own)
    return found
