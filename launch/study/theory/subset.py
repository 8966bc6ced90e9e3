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

from cost.draws.streams import generator_for
from cost.types import BoolArray, FloatArray
from launch.study.theory.problems import RADIUS, Case


@dataclass(frozen=True, slots=True)
class Subset:
    """A choice of components and what the upper bound says about it."""

    keep: BoolArray
    """[n] True for components that stay."""
    share: float
    """theta, part of epsilon that leaving out the others uses up, in [0, 1)."""
    cost: float
    """R^2 (sum_kept G sqrt(c))^2 / ((1 - share) epsilon)^2."""


def best_subset(norms: FloatArray, costs: FloatArray, radius: float, epsilon: float) -> Subset:
    """Choose share and subset of least cost, greedily.

    Value over weight is sqrt(c), so the sets worth a look are the first k components, costliest
    first, each with the share it uses: no grid of shares is needed.

    Args:
        norms: [n] G, not negative.
        costs: [n] c, positive.
        radius: R of the ball about the start.
        epsilon: Wanted suboptimality on all of f.
    """
    values = norms * np.sqrt(costs)
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


@dataclass(frozen=True, slots=True)
class Dropping:
    """What leaving out costly components does to the bound."""

    sigma: float
    """Of lognormal costs."""
    looseness: float
    """epsilon over 2 R sum G; at 1 any point of the ball is good enough."""
    share: float
    """theta, of epsilon, for the dropped."""
    dropped_examples: float
    """Their share of all components."""
    dropped_work: float
    """Their share of sum G sqrt(c)."""
    cost: float
    """Cost of the bound, over that with all components."""


def dropping(case: Case) -> list[Dropping]:
    """Choose subsets greedily, for costs and epsilons from usual to extreme."""
    found: list[Dropping] = []
    for sigma in (1.0, 2.0, 3.0):
        rng = generator_for(0, "theory/dropping")
        costs = rng.lognormal(0.0, sigma, len(case.norms))
        work = case.norms * np.sqrt(costs)
        for looseness in (0.01, 0.1, 0.3):
            epsilon = looseness * 2 * RADIUS * float(case.norms.sum())
            subset = best_subset(case.norms, costs, RADIUS, epsilon)
            found.append(
                Dropping(
                    sigma=sigma,
                    looseness=looseness,
                    share=subset.share,
                    dropped_examples=float(np.mean(~subset.keep)),
                    dropped_work=float(work[~subset.keep].sum() / work.sum()),
                    cost=subset.cost / (RADIUS * float(work.sum()) / epsilon) ** 2,
                )
            )
    return found
