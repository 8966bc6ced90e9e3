"""Keep probabilities that spend a cost budget with least variance.

    minimise  sum_i G_i^2 / p_i    subject to  sum_i c_i p_i = B,  floor <= p_i <= 1
    p_i = clip(s G_i / sqrt(c_i), floor, 1),  s such that the budget holds

The rule p ~ G / sqrt(c) is the paper's (Mohri et al. 2026, 2604.28020); the inclusion form with a
budget, a floor and the cap at 1 is ours (KKT conditions).

The budget spent is piecewise linear and increasing in s with breakpoints floor / r_i and 1 / r_i,
r = G / sqrt(c). With prefix sums over sorted r it is known at any s after two look-ups, so the
piece that holds the budget is found by bisection; on it, s solves one linear equation. The solution
is exact, and takes O(n log n) for the sort.
"""

from bisect import bisect_left

import numpy as np

from cost.types import FloatArray


def waterfill(
    scores: FloatArray, costs: FloatArray, budget: float, floor: float = 0.0
) -> FloatArray:
    """Solve for the keep probabilities.

    An item of score 0 gets the floor. With a positive floor it also shares, in equal parts, what
    remains when all others are kept for certain: a positive floor says that its gradient may not be
    exactly zero. A floor that the budget cannot pay is lowered to budget / sum(costs).

    Args:
        scores: [n] float64, not negative: guesses G of gradient norms, any scale.
        costs: [n] float64, positive.
        budget: Expected cost to spend, not negative; more than sum(costs) is the same as that.
        floor: Least probability, in [0, 1].

    Returns:
        [n] float64 in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        waterfill([1.5, .5, .5], [100, 400, 900], 700) is [1, .6, .4].
    """
    scores = np.asarray(scores, dtype=np.float64)
    costs = np.asarray(costs, dtype=np.float64)
    _check(scores, costs, budget, floor)
    if len(scores) == 0:
        return np.zeros(0)
    all_costs = float(costs.sum())
    if floor * all_costs >= budget:
        return np.full(len(scores), min(budget / all_costs, 1.0))

    positive = scores > 0
    probabilities = np.full(len(scores), floor)
    left = budget - floor * float(costs[~positive].sum())
    if left < costs[positive].sum():
        probabilities[positive] = _interior(scores[positive], costs[positive], left, floor)
        return probabilities
    probabilities[positive] = 1.0
    if floor > 0 and not positive.all():
        left = budget - float(costs[positive].sum())
        probabilities[~positive] = min(left / float(costs[~positive].sum()), 1.0)
    return probabilities


def _interior(scores: FloatArray, costs: FloatArray, budget: float, floor: float) -> FloatArray:
    """Solve where all scores are positive and floor * sum(costs) < budget < sum(costs)."""
    ratio = scores / np.sqrt(costs)
    ratio = ratio / ratio.max()
    order = np.argsort(-ratio)
    r, c = ratio[order], costs[order]
    # The scale s at which an item leaves the floor, and at which it reaches 1; both ascend.
    leaves_floor, reaches_one = floor / r, 1.0 / r
    cost_before = np.concatenate([[0.0], np.cumsum(c)])
    slope_before = np.concatenate([[0.0], np.cumsum(c * r)])

    def spent(scale: float) -> float:
        num_capped = np.searchsorted(reaches_one, scale, side="right")
        num_above_floor = np.searchsorted(leaves_floor, scale, side="left")
        return float(
            cost_before[num_capped]
            + scale * (slope_before[num_above_floor] - slope_before[num_capped])
            + floor * (cost_before[-1] - cost_before[num_above_floor])
        )

    # The piece that holds the budget lies between the last breakpoint that spends less and the
    # first that does not.
    low, high = 0.0, float(reaches_one[-1])
    for breakpoints in (leaves_floor, reaches_one):
        index = bisect_left(breakpoints, budget, key=spent)
        if index > 0:
            low = max(low, float(breakpoints[index - 1]))
        if index < len(breakpoints):
            high = min(high, float(breakpoints[index]))

    capped, floored = reaches_one <= low, leaves_floor >= high
    free = ~(capped | floored)
    slope = float((c * r)[free].sum())
    spent_elsewhere = float(c[capped].sum() + floor * c[floored].sum())
    scale = (budget - spent_elsewhere) / slope if slope > 0 else low
    probabilities = np.empty(len(r))
    in_order = np.clip(np.clip(scale, low, high) * r, floor, 1.0)
    in_order[capped] = 1.0
    in_order[floored] = floor
    probabilities[order] = in_order
    return probabilities


def _check(scores: FloatArray, costs: FloatArray, budget: float, floor: float) -> None:
    if scores.ndim != 1 or scores.shape != costs.shape:
        raise ValueError(
            f"scores and costs must be vectors of one length, got {scores.shape!r} and "
            f"{costs.shape!r}"
        )
    if not (np.isfinite(scores).all() and (scores >= 0).all()):
        raise ValueError(f"scores must be finite and not negative, got {scores!r}")
    if not (np.isfinite(costs).all() and (costs > 0).all()):
        raise ValueError(f"costs must be finite and positive, got {costs!r}")
    if not budget >= 0:
        raise ValueError(f"budget must not be negative, got {budget!r}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must lie in [0, 1], got {floor!r}")
