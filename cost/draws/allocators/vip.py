"""VIP (2602.01601): group sizes that minimise the variance of the batch's gradient.

    minimise sum_i v_i f(n_i)   subject to   sum_i n_i = P * group_size,  L <= n_i <= U
    v = p (1 - p),    f(n) = (n - 1) / n^2  for rewards minus the group's mean (Dr. GRPO)
                      f(n) = 1 / (n - 1)    for leave-one-out (RLOO)

The paper has a factor 4 s^2 (rewards of +-1, s^2 the variance of projected scores), the same for
all prompts. It solves for real n by bisection on the multiplier of the budget and rounds greedily;
whole parts of real solutions are not always the best (ours: large groups give way to small ones).
Here responses are given out one by one, each to where it lowers the variance most: as v f is
convex, no other choice has less.

Here pass rates are the scheduler's, shrunk to a prediction from features; the paper's Gaussian
process on prompt embeddings is not built.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn
from cost.draws.allocators.integers import check_bounds, filled
from cost.draws.allocators.types import Snapshot
from cost.draws.draws import EpochDraws
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class VarianceInformed(Drawn):
    """Uniform draws with the group sizes of least variance.

    It keeps the objective as far as `cost.draws.allocators.knapsack.Knapsack` does.
    """

    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol)."""
    leave_one_out: bool = False
    """True for the variance under leave-one-out advantages, False for group-mean ones."""
    min_samples: int = 3
    """L, the least responses of a prompt, at most the group size. It is at least 2, and at least 3
    for group means, whose variance is not convex below. The default is ours."""
    max_samples: int = 128
    """U, the most responses of a prompt, at least the group size. The default is ours."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        least = 2 if self.leave_one_out else 3
        if self.min_samples < least:
            raise ValueError(
                f"allocator.min_samples must be at least {least} with allocator.leave_one_out="
                f"{str(self.leave_one_out).lower()}, got {self.min_samples!r}"
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
        rates = snapshot.estimates.pass_rates[indices]
        return least_variance(
            rates * (1 - rates),
            group_size * len(indices),
            leave_one_out=self.leave_one_out,
            min_samples=self.min_samples,
            max_samples=self.max_samples,
        )


def variance(num_samples: int, *, leave_one_out: bool) -> float:
    """Return f(n): a prompt's gradient variance over 4 s^2 p (1 - p); n >= 2."""
    n = float(num_samples)
    return 1 / (n - 1) if leave_one_out else (n - 1) / (n * n)


def least_variance(
    spreads: FloatArray, total: int, *, leave_one_out: bool, min_samples: int, max_samples: int
) -> IntArray:
    """Share out `total` responses.

    Prompts of spread 0 get `min_samples`, and equal parts of what all others cannot take.

    Args:
        spreads: [m] float64 p (1 - p), not negative.
        total: Responses to share out, in [m * min_samples, m * max_samples].
        leave_one_out: True for the f of leave-one-out advantages, False for that of group means.
        min_samples: L, the least of each prompt; for group means at least 3.
        max_samples: U, the most of each prompt.

    Returns:
        [m] int64 in [min_samples, max_samples] that sum to `total`.
    """
    v: list[float] = spreads.tolist()

    def decrease(i: int, n: int) -> float:
        before, after = (variance(k, leave_one_out=leave_one_out) for k in (n, n + 1))
        return v[i] * (before - after)

    lower, upper = (
        np.full(len(spreads), bound, dtype=np.int64) for bound in (min_samples, max_samples)
    )
    return filled(lower, decrease, upper, np.ones(len(spreads)), total)
