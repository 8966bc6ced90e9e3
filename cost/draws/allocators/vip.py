"""VIP (2602.01601): group sizes that minimise the variance of the batch's gradient.

    minimise sum_i v_i f(n_i)   subject to   sum_i n_i = P * group_size,  L <= n_i <= U
    v = p (1 - p),    f(n) = (n - 1) / n^2  for rewards minus the group's mean (Dr. GRPO)
                      f(n) = 1 / (n - 1)    for leave-one-out (RLOO)

The paper has a factor 4 s^2 (rewards of +-1, s^2 the variance of projected scores), the same for
all prompts. It solves for real n by bisection on the multiplier of the budget and rounds greedily.
As v f is convex, no integer solution is better (ours): every response up to the real solution
lowers the variance by at least the multiplier, every one beyond by at most that.

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

_HALVINGS = 60


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
    counts = np.full(len(spreads), min_samples, dtype=np.int64)
    if spreads.any():
        amounts = _real_solution(spreads, total, leave_one_out, min_samples, max_samples)
        counts = np.floor(amounts).astype(np.int64)
    v: list[float] = spreads.tolist()

    def decrease(i: int, n: int) -> float:
        before, after = (variance(k, leave_one_out=leave_one_out) for k in (n, n + 1))
        return v[i] * (before - after)

    upper = np.full(len(spreads), max_samples, dtype=np.int64)
    return filled(counts, decrease, upper, np.ones(len(spreads)), total)


def _real_solution(
    spreads: FloatArray, total: int, leave_one_out: bool, low: int, high: int
) -> FloatArray:
    """Bisect on the multiplier, on a logarithmic scale; the answer sums to at most `total`."""
    spreads = spreads / spreads.max()

    def minimisers(multiplier: float) -> FloatArray:
        """Return the n at which v f falls by `multiplier` per response, within the bounds."""
        # A spread of 0 has an infinite slope, which gives the lower bound.
        with np.errstate(divide="ignore", over="ignore"):
            slopes = multiplier / spreads
        return np.clip(_where_slope_is(slopes, leave_one_out), low, high)

    # A slope of 1 is steeper than f anywhere; one of high^-3 / 10 is flatter than f at `high`, and
    # the margin of 1e-18 brings prompts of much smaller spread there too.
    few, many = 0.0, float(np.log(1e-18 / high**3))
    for _ in range(_HALVINGS):
        middle = (few + many) / 2
        if minimisers(float(np.exp(middle))).sum() <= total:
            few = middle
        else:
            many = middle
    return minimisers(float(np.exp(few)))


def _where_slope_is(slopes: FloatArray, leave_one_out: bool) -> FloatArray:
    """Return n with -f'(n) = slope; at least 3 for group means.

    -f' is 1 / (n - 1)^2 for leave-one-out. For group means it is (n - 2) / n^3, a cubic in n whose
    largest root is the one beyond the maximum 1 / 27 at n = 3.
    """
    if leave_one_out:
        return 1 + 1 / np.sqrt(slopes)
    slopes = np.minimum(slopes, 1 / 27)
    root = 2 / np.sqrt(3 * slopes)
    return np.asarray(root * np.cos(np.arccos(-np.minimum(3 * np.sqrt(3 * slopes), 1)) / 3))
