"""Cost-aware passes: plain GRPO's epochs, in which prompts of little worth are often passed over.

A prompt that every pass takes once adds to a pass the noise of its responses alone; a prompt that
is taken with chance q and weighted by 1 / q adds V / q - B, with V the second moment of its groups'
gradients and B the squared norm of their mean. The least (cost) x (variance) of a pass,

    (sum q_i c_i) (sum V_i / q_i - B_i),    has q_i = min(1, s sqrt(V_i / c_i))

and some s. Independent draws have B = 0: they lose to epochs where B is most of V, as it is where
prompts are alike in themselves and differ from each other (launch/study/RESULTS.md). Ours.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn
from cost.draws.allocators.types import Allocation, Estimates
from cost.draws.draws import PassDraws
from cost.types import FloatArray


@dataclass(frozen=True, slots=True)
class Passes(Drawn):
    """q = min(1, s r), r = (1 - floor) root + floor mean root, s such that mean q = share."""

    draws: Any = field(default_factory=PassDraws)
    """`PassDraws`, whose coins have chances p / max p."""
    share: float = 0.65
    """Part of the prompts that a pass takes on average, in (0, 1]; 1 is plain GRPO's epoch."""
    floor: float = 0.2
    """As in `square_root`; in (0, 1]. Weights are at most 1 / floor."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        for name in ("share", "floor"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"allocator.{name} must lie in (0, 1], got {getattr(self, name)!r}"
                )
        if not isinstance(self.draws, PassDraws):
            raise ValueError(
                f"allocator.draws must be PassDraws, got {type(self.draws).__name__!r}"
            )

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Return p = q / sum q; uniform where no prompt has any utility."""
        root = np.sqrt(estimates.utilities / estimates.costs)
        largest = root.max()
        root = root / largest if largest > 0 else np.ones_like(root)
        root *= 1 - self.floor
        root += root.mean() * self.floor / (1 - self.floor) if self.floor < 1 else 1.0
        chances = capped(root, self.share)
        p = chances / chances.sum()
        return Allocation(probabilities=p, weights=1.0 / (len(p) * p))


def capped(values: FloatArray, mean: float) -> FloatArray:
    """Return [N] min(1, s values) with the s that gives them a mean in (0, 1].

    Args:
        values: [N] positive.
        mean: What the result is to have.
    """
    total, at_cap = mean * len(values), np.zeros(len(values), dtype=bool)
    while True:
        below = values[~at_cap].sum()
        scale = (total - at_cap.sum()) / below if below > 0 else 0.0
        over = ~at_cap & (values * scale > 1)
        if not over.any():
            return np.where(at_cap, 1.0, values * scale)
        at_cap |= over
