"""The cost-aware rule: draw a prompt by the root of its worth over its cost.

Of all p, p_i ~ sqrt(V_i / c_i) has the least (expected cost) x (second moment),
(sum p_i c_i) (sum V_i / p_i) >= (sum sqrt(V_i c_i))^2 by Cauchy-Schwarz: the form of the paper's
rule (2604.28020), applied by us to prompts, which the paper does not do.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn
from cost.draws.allocators.types import Allocation, Estimates
from cost.ranges import positive, require_ranges


@dataclass(frozen=True, slots=True)
class SquareRoot(Drawn):
    """p = (1 - floor) r / sum r + floor / N with r = sqrt(utility / cost)."""

    floor: float = 0.2
    """Share of uniform draws mixed in, in (0, 1]. Weights are at most 1 / floor, the second moment
    at most 1 / (1 - floor) of the optimum, and prompt i is revisited every 1 / (P p_i) steps."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("allocator.", self, {"floor": positive(1)})
        if not self.draws.any_probabilities:
            raise ValueError(
                "allocator.draws must be able to draw with any probabilities, "
                f"got {type(self.draws).__name__!r}"
            )

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Return the mixture; uniform where no prompt has any utility."""
        root = np.sqrt(estimates.utilities / estimates.costs)
        # Division by the largest first keeps the sum from over- or underflowing.
        largest = root.max()
        share = root / largest if largest > 0 else np.ones_like(root)
        share *= (1 - self.floor) / share.sum()
        share += self.floor / len(share)
        return Allocation(probabilities=share, weights=1.0 / (len(share) * share))
