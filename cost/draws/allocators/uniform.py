"""All prompts are equally likely: with `EpochDraws` this is plain GRPO."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cost.draws.allocators.drawn import Drawn, uniform_allocation
from cost.draws.allocators.types import Allocation, Estimates


@dataclass(frozen=True, slots=True)
class Uniform(Drawn):
    """Draws every prompt with the same probability, with weights of exactly 1."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Return 1 / N for every prompt."""
        return uniform_allocation(len(estimates.costs))
