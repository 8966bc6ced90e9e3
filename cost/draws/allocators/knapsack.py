"""Knapsack RL (2509.25849): group sizes that make most groups informative, for a fixed total.

    maximise sum_i Value(n_i, p_i),  Value(n, p) = (1 - p^n - (1 - p)^n) p (1 - p)^2
    subject to sum_i n_i = P * group_size,  min_samples <= n_i <= max_samples

The first factor is the chance that a group of n has both a success and a failure, the second the
paper's gain of such a group. Value is concave in n (ours, checked), so adding the response of most
marginal gain until the budget is spent is exact; the paper solves the same by dynamic programming.

Only the P drawn prompts compete with each other. Their pass rates p_i are the scheduler's: shrunk
to a prediction from features. The paper keeps the last 16 rewards of each prompt and gives a prompt
never seen 8 responses; here a prompt never seen competes with its predicted rate, so that in the
first batch all groups are equal, and a rate of exactly 0 or 1 is rare.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn
from cost.draws.allocators.integers import check_bounds, evenly, filled
from cost.draws.allocators.types import Snapshot
from cost.draws.draws import EpochDraws
from cost.types import FloatArray, IntArray

ALMOST_SURE = 0.9
"""Chance of a mixed group at which a prompt has what it needs (the paper's code)."""


@dataclass(frozen=True, slots=True)
class Knapsack(Drawn):
    """Uniform draws; group sizes by greatest marginal value.

    Group sizes follow from past statistics and the draw alone, and the estimator averages within
    each group, so each prompt counts the same. What is left is how the advantage itself varies with
    n: leave-one-out not at all, so that it is exactly unbiased; group means scale a prompt's
    gradient by (n - 1) / n; standardised advantages depend on n in their own way. With the batch
    token mean, the paper's, a prompt counts as often as it has tokens: another objective.
    """

    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol)."""
    min_samples: int = 2
    """Least responses of a prompt, at least 2, at most the group size."""
    max_samples: int = 128
    """Most responses of a prompt, at least the group size. Each response is one request; engines
    queue those that they do not run at once."""
    cost_aware: bool = False
    """True limits sum n_i c_i to P * group_size * (mean c_i) and picks by gain per cost (ours). The
    sum is then less than one response below that; the choice is optimal but for the last responses
    that did not fit. c_i is the estimate at the mean group size, so a prompt shared by more
    responses is a little cheaper than stated."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.min_samples < 2:
            raise ValueError(
                "allocator.min_samples must be at least 2, since advantages compare the responses "
                f"of a group, got {self.min_samples!r}"
            )
        if self.max_samples < self.min_samples:
            raise ValueError(
                f"allocator.max_samples must be at least min_samples ({self.min_samples}), "
                f"got {self.max_samples!r}"
            )

    def group_sizes(self, indices: IntArray, snapshot: Snapshot, group_size: int) -> IntArray:
        """Return [m] responses for each drawn prompt.

        Raises:
            ValueError: If the bounds exclude the mean group size.
        """
        check_bounds(group_size, self.min_samples, self.max_samples)
        costs = snapshot.estimates.costs[indices] if self.cost_aware else np.ones(len(indices))
        return packed(
            snapshot.estimates.pass_rates[indices],
            costs,
            group_size * float(costs.sum()),
            min_samples=self.min_samples,
            max_samples=self.max_samples,
        )


def packed(
    rates: FloatArray, costs: FloatArray, budget: float, *, min_samples: int, max_samples: int
) -> IntArray:
    """Solve the knapsack.

    Where some rates are exactly 0 or 1, the others get at most what they need for a mixed group
    with probability .9 in all; the rest goes to rates of 0, else to rates of 1, in equal parts, and
    what those cannot take to all (our reading of the paper's code).

    Args:
        rates: [m] float64 pass rates in [0, 1].
        costs: [m] float64 cost of a response, positive; ones for a budget in responses.
        budget: What to spend, in the unit of `costs`, at least min_samples * sum(costs).
        min_samples: Least responses of each prompt.
        max_samples: Most responses of each prompt.

    Returns:
        [m] int64 in [min_samples, max_samples].
    """
    counts = np.full(len(rates), min_samples, dtype=np.int64)
    upper = np.full(len(rates), max_samples, dtype=np.int64)
    p: list[float] = rates.tolist()
    c: list[float] = costs.tolist()

    def gain_per_cost(i: int, n: int) -> float:
        return gain(n, p[i]) / c[i]

    settled = (rates <= 0) | (rates >= 1)
    if not settled.any():
        return filled(counts, gain_per_cost, upper, costs, budget)
    needs = np.array([need(rate) for rate in rates[~settled].tolist()])
    needed = float(costs[~settled] @ np.maximum(needs, min_samples))
    wanted = needed + min_samples * float(costs[settled].sum())
    mixed = np.where(settled, counts, upper)
    counts = filled(counts, gain_per_cost, mixed, costs, min(budget, wanted))
    hard = rates <= 0
    explored = np.where(hard if hard.any() else settled, upper, counts)
    counts = filled(counts, evenly, explored, costs, budget)
    return filled(counts, evenly, upper, costs, budget)


def value(num_samples: int, rate: float) -> float:
    """Return Value(n, p), in [0, 4/27]: the worth of n responses to a prompt of pass rate p."""
    fail = 1 - rate
    return float(1 - rate**num_samples - fail**num_samples) * rate * fail * fail


def gain(num_samples: int, rate: float) -> float:
    """Return Value(n + 1, p) - Value(n, p), without cancellation; not increasing in n >= 1."""
    fail = 1 - rate
    return float(rate**num_samples * fail + fail**num_samples * rate) * rate * fail * fail


def need(rate: float) -> float:
    """Return the responses for a 90% chance that they are not all as the likelier outcome.

    Args:
        rate: The pass rate, in (0, 1).
    """
    return math.log(1 - ALMOST_SURE) / math.log(max(rate, 1 - rate))
