"""Cost-aware passes: plain GRPO's epochs, in which prompts of little worth are often passed over.

A prompt that every pass takes once adds to a pass the noise of its responses alone; a prompt that
is taken with chance q and weighted by 1 / q adds V / q - B, with V the second moment of its groups'
gradients and B the squared norm of their mean. The least (cost) x (variance) of a pass,

    (sum q_i c_i) (sum V_i / q_i - B_i),    has q_i = min(1, s sqrt(V_i / c_i))

and some s. Independent draws have B = 0: they lose to epochs where B is most of V, as it is where
prompts are alike in themselves and differ from each other (launch/study/RESULTS.md). Ours.

What is learned during a pass changes the chances q of the prompts that are still to come in it at
once; the weights are computed for the changed chances (`PassDraws`).
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn, draw_round
from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates, Round, Snapshot
from cost.draws.draws import PassDraws
from cost.ranges import positive, require_ranges
from cost.types import FloatArray


@dataclass(frozen=True, slots=True)
class Passes(Drawn):
    """p ~ min(1, s r), r = (1 - floor) root + floor mean root, s such that their mean is share.

    Coins are p / max p: min(1, s r) where that reaches 1, and more than that where it does not.
    """

    draws: Any = field(default_factory=PassDraws)
    """`PassDraws`, whose coins have chances p / max p."""
    share: float = 0.65
    """Least part of the prompts that a pass takes on average, in (0, 1]; just that where some are
    worth so much more than others that a pass is sure to take them, and all where none is. 1 is
    plain GRPO's epoch."""
    floor: float = 0.2
    """As in `square_root`; in (0, 1]. Weights are at most 1 / floor at the beginning of a pass, and
    later that times the mean p of the unmet prompts over the mean of all."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("allocator.", self, {"share": positive(1), "floor": positive(1)})
        if not isinstance(self.draws, PassDraws):
            raise ValueError(
                f"allocator.draws must be PassDraws, got {type(self.draws).__name__!r}"
            )

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Return p and the weights at the beginning of a pass.

        Uniform where no prompt has any utility.
        """
        root = np.sqrt(estimates.utilities / estimates.costs)
        largest = root.max()
        root = root / largest if largest > 0 else np.ones_like(root)
        root *= 1 - self.floor
        root += root.mean() * self.floor / (1 - self.floor) if self.floor < 1 else 1.0
        chances = capped(root, self.share)
        p = chances / chances.sum()
        return Allocation(probabilities=p, weights=1.0 / (len(p) * p))

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[Round, Any]:
        """Draw P prompts, which are the whole batch, with weights of where the pass stands."""
        indices, weights, state = self.draws.draw_weighted(
            state, snapshot.prepared, so_far.num_groups, rng
        )
        sizes = self.group_sizes(indices, snapshot, so_far.group_size)
        return replace(draw_round(indices, sizes, snapshot), weights=weights), state


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
