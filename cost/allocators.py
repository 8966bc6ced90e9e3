"""Plug `allocator`: probabilities, weights and group sizes of the prompts, and how they are drawn.

Contract: `allocate(utilities, costs, pass_rates, group_size) -> Allocation` and a field `draws`
(cost/draws.py). `objective_preserving` is True if weights undo the probabilities, so that the
expected gradient is that of uniform draws; `uniform` is True if every prompt is equally likely.

The square-root rule: of all p, p_i ~ sqrt(V_i / c_i) has the least (expected cost) x (second
moment), (sum p_i c_i) (sum V_i / p_i) >= (sum sqrt(V_i c_i))^2 by Cauchy-Schwarz (the
form of the paper's rule, 2604.28020, applied by us to prompts, which the paper does not do).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from cost.draws import Draws, IndependentDraws, SystematicDraws
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Allocation:
    """How often each prompt is drawn, what a draw weighs, how many responses it gets."""

    probabilities: FloatArray
    """[N] positive, sums to 1."""
    weights: FloatArray
    """[N] design weight of a draw: 1 / (N p) where the objective is preserved."""
    group_sizes: IntArray
    """[N] responses a draw generates, at least 1."""


class Allocator(Protocol):
    """Decides how often to draw each prompt."""

    objective_preserving: ClassVar[bool]
    uniform: ClassVar[bool]

    @property
    def draws(self) -> Draws:
        """How prompts are drawn."""

    def allocate(
        self, utilities: FloatArray, costs: FloatArray, pass_rates: FloatArray, group_size: int
    ) -> Allocation:
        """Allocate draws.

        Args:
            utilities: [N] second moment of a ticket's gradient, not negative, any scale.
            costs: [N] expected cost of a response, positive, any scale.
            pass_rates: [N] in [0, 1].
            group_size: Responses per ticket on average.
        """


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every prompt the same, weights exactly 1: with `EpochDraws` this is plain GRPO."""

    draws: Any = field(default_factory=IndependentDraws)
    """A `cost.draws.Draws` (hydra refuses the protocol)."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def allocate(
        self, utilities: FloatArray, costs: FloatArray, pass_rates: FloatArray, group_size: int
    ) -> Allocation:
        """Return 1 / N for every prompt."""
        size = len(utilities)
        return Allocation(
            probabilities=np.full(size, 1.0 / size),
            weights=np.ones(size),
            group_sizes=np.full(size, group_size, dtype=np.int64),
        )


@dataclass(frozen=True, slots=True)
class SquareRoot:
    """p = (1 - floor) r / sum r + floor / N with r = sqrt(utility / cost)."""

    floor: float = 0.2
    """Share of uniform draws mixed in, in (0, 1]. Weights are at most 1 / floor, the second moment
    at most 1 / (1 - floor) of the optimum, and prompt i is revisited every 1 / (P p_i) steps."""
    draws: Any = field(default_factory=SystematicDraws)
    """A `cost.draws.Draws` that can draw with any probabilities."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.floor <= 1:
            raise ValueError(f"allocator.floor must lie in (0, 1], got {self.floor!r}")
        if not self.draws.any_probabilities:
            raise ValueError(
                "allocator.draws must be able to draw with any probabilities, "
                f"got {type(self.draws).__name__!r}"
            )

    def allocate(
        self, utilities: FloatArray, costs: FloatArray, pass_rates: FloatArray, group_size: int
    ) -> Allocation:
        """Return the mixture; uniform where no prompt has any utility."""
        size = len(utilities)
        root = np.sqrt(utilities / costs)
        # Division by the largest first keeps the sum from over- or underflowing.
        largest = root.max()
        share = root / largest if largest > 0 else np.ones(size)
        probabilities = (1 - self.floor) * (share / share.sum()) + self.floor / size
        return Allocation(
            probabilities=probabilities,
            weights=1.0 / (size * probabilities),
            group_sizes=np.full(size, group_size, dtype=np.int64),
        )
