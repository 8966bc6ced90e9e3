"""Allocators whose batches are one round of draws: what they share.

snapshot.prepared --draws.draw--> indices --Allocation--> probabilities, weights --sizes--> Round
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates, Round, Snapshot
from cost.draws.draws import SystematicDraws
from cost.prompts import PromptPool, Visit
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Drawn:
    """Base of allocators that draw all prompts of a batch at once, by `draws`.

    A subclass may override `allocate` and `group_sizes`. Its state is that of its draws.
    """

    draws: Any = field(default_factory=SystematicDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol)."""

    varies_group_sizes: ClassVar[bool] = False

    def initial_state(self, prompts: PromptPool) -> Any:
        """Return the state of the draws before the first."""
        return self.draws.initial_state(prompts.num_prompts)

    def update(self, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
        """Return the state unchanged: what was seen reaches the draws through the estimates."""
        return state

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Return 1 / N for every prompt unless overridden."""
        return uniform_allocation(len(estimates.costs))

    def prepare(self, allocation: Allocation, rng: np.random.Generator) -> Any:
        """Prepare the draws."""
        return self.draws.prepare(allocation.probabilities, rng)

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[Round, Any]:
        """Draw P prompts, which are the whole batch."""
        indices, state = self.draws.draw(state, snapshot.prepared, so_far.num_groups, rng)
        sizes = self.group_sizes(indices, snapshot, so_far.group_size)
        return draw_round(indices, sizes, snapshot), state

    def group_sizes(self, indices: IntArray, snapshot: Snapshot, group_size: int) -> IntArray:
        """Return [m] responses for each drawn prompt; the same for all unless overridden."""
        return np.full(len(indices), group_size, dtype=np.int64)


def draw_round(
    indices: IntArray, group_sizes: IntArray, snapshot: Snapshot, **flags: bool
) -> Round:
    """Make the round of some drawn prompts with the snapshot's probabilities and weights."""
    allocation = snapshot.allocation
    return Round(
        indices=indices,
        group_sizes=group_sizes,
        probabilities=allocation.probabilities[indices],
        weights=allocation.weights[indices],
        **flags,
    )


def uniform_allocation(num_prompts: int) -> Allocation:
    """Return 1 / N for every prompt, with weights of exactly 1."""
    probabilities: FloatArray = np.full(num_prompts, 1.0 / num_prompts)
    return Allocation(probabilities=probabilities, weights=np.ones(num_prompts))
