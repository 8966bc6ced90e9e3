"""Which components of a finite sum are not worth their cost.

Leaving out a set D changes f by a function of Lipschitz constant sum_D G. In a ball of radius R two
points are at most 2 R apart, so what is epsilon'-optimal for the rest is, for all of f,

    epsilon' + 2 R sum_D G  optimal.

With a share theta of epsilon given to D, sum_D G <= theta epsilon / (2 R), and the rest must be
solved to (1 - theta) epsilon, at cost R^2 (sum_kept G sqrt(c))^2 / ((1 - theta) epsilon)^2. So D
is a knapsack: most sum G sqrt(c) for limited sum G. Dropping pays only where D's share of
sum G sqrt(c) exceeds theta: more than half of it for half of epsilon.

That the paper (Mohri et al. 2026, arXiv 2604.28020) selects subsets is in its abstract; that it is
a min-cost knapsack is known from a secondary source. What follows is ours.
"""

from dataclasses import dataclass

import numpy as np

from cost.types import BoolArray, FloatArray

MOST_SETS = 200_000
"""Undominated sets that the exact solver keeps before it gives up."""


@dataclass(frozen=True, slots=True)
class Subset:
    """A choice of components and what the upper bound says about it."""

    keep: BoolArray
    """[n] True for components that stay."""
    share: float
    """theta, part of epsilon that leaving out the others uses up, in [0, 1)."""
    cost: float
    """R^2 (sum_kept G sqrt(c))^2 / ((1 - share) epsilon)^2."""


def drop_greedily(norms: FloatArray, costs: FloatArray, allowance: float) -> BoolArray:
    """Leave out components, costliest first, as long as their norms fit.

    Value over weight is sqrt(c), so this is the greedy of the knapsack: what it drops is worth at
    least the optimum less one component.

    Args:
        norms: [n] G, not negative.
        costs: [n] c, positive.
        allowance: Most that the norms of the dropped may sum to, not negative.

    Returns:
        [n] True for components that stay.
    """
    keep = np.ones(len(norms), dtype=np.bool_)
    left = allowance
    for index in np.argsort(-costs, kind="stable"):
        if norms[index] <= left:
            keep[index] = False
            left -= float(norms[index])
    return keep


def drop_exactly(norms: FloatArray, costs: FloatArray, allowance: float) -> BoolArray:
    """Leave out the set of most sum G sqrt(c) that fits; arguments as in `drop_greedily`.

    Raises:
        ValueError: If there are too many undominated sets; a few dozen components are no problem.
    """
    dropped: BoolArray = _undominated(norms, costs, allowance)[2][-1]
    return ~dropped


def best_subset(
    norms: FloatArray, costs: FloatArray, radius: float, epsilon: float, *, exact: bool = False
) -> Subset:
    """Choose share and subset of least cost.

    No grid of shares is needed. Greedily, the sets worth a look are the first k components,
    costliest first, each with the share it uses. Exactly, they are the undominated sets: for any
    weight no other set has more value.

    Args:
        norms: [n] G, not negative.
        costs: [n] c, positive.
        radius: R of the ball about the start.
        epsilon: Wanted suboptimality on all of f.
        exact: Whether to look at all undominated sets, as `drop_exactly`.
    """
    values = norms * np.sqrt(costs)
    if exact:
        # A share of 1 leaves nothing for the descent.
        weights, gains, dropped = _undominated(norms, costs, epsilon / (2 * radius))
    else:
        order = np.argsort(-costs, kind="stable")
        ranks = np.empty(len(norms), dtype=np.int64)
        ranks[order] = np.arange(len(norms))
        weights = np.concatenate([[0.0], np.cumsum(norms[order])])
        gains = np.concatenate([[0.0], np.cumsum(values[order])])
        dropped = ranks < np.arange(len(norms) + 1)[:, None]
    shares = 2 * radius * weights / epsilon
    # Dropping everything is a choice only if any point is good enough.
    possible = np.flatnonzero(shares < 1)
    rest = np.maximum(values.sum() - gains[possible], 0.0)
    costs_left = (radius * rest / ((1 - shares[possible]) * epsilon)) ** 2
    best = int(np.argmin(costs_left))
    chosen = int(possible[best])
    return Subset(~dropped[chosen], float(shares[chosen]), float(costs_left[best]))


def _undominated(
    norms: FloatArray, costs: FloatArray, allowance: float
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """List all undominated sets within the allowance, by rising weight and value.

    The dynamic programme of Nemhauser and Ullmann (1969); weights may be any real numbers.

    Returns:
        [k] weights, [k] values, [k, n] membership.
    """
    values = norms * np.sqrt(costs)
    weights_of, values_of = np.zeros(1), np.zeros(1)
    members = np.zeros((1, len(norms)), dtype=np.bool_)
    for index in range(len(norms)):
        added = members.copy()
        added[:, index] = True
        weight = np.concatenate([weights_of, weights_of + norms[index]])
        value = np.concatenate([values_of, values_of + values[index]])
        both = np.concatenate([members, added])
        order = np.lexsort((-value, weight))
        order = order[weight[order] <= allowance]
        best_before = np.concatenate([[-1.0], np.maximum.accumulate(value[order])[:-1]])
        order = order[value[order] > best_before]
        weights_of, values_of, members = weight[order], value[order], both[order]
        if len(order) > MOST_SETS:
            raise ValueError(
                f"norms has {len(norms)} components with more than {MOST_SETS} undominated sets, "
                "too many for the exact subset; choose greedily"
            )
    return weights_of, values_of, members
