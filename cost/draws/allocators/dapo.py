"""Dynamic sampling of DAPO (arXiv 2503.14476): draw until P groups have rewards that differ.

The paper generates in batches of 3 P (1536 prompts for 512) and gives up after 10 of them. Here the
first round draws for P groups and each next one for those still missing, each times `oversample`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from cost.draws.allocators.drawn import uniform_allocation
from cost.draws.allocators.filtering import Filtering, whole
from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates
from cost.prompts import PromptPool
from cost.ranges import count, require_ranges


@dataclass(frozen=True, slots=True)
class DynamicSamplingState:
    """Where the draws and the open batch stand."""

    draws: Any
    """The state of the draws."""
    rounds: int
    """How many rounds of the open batch were drawn."""


@dataclass(frozen=True, slots=True)
class DynamicSampling(Filtering):
    """Uniform draws; groups whose usable rewards are all equal, or that failed, are left out.

    A batch that has not P groups after `max_rounds` is learned with those it has; a batch without
    any is no update. Weights are 1, so the objective is not preserved (for how far it is see
    `cost.draws.allocators.filtering`); the draws themselves are uniform.
    """

    oversample: float = 1.25
    """Tickets drawn per missing group, at least 1. More means fewer rounds, each of which waits
    for its longest response, and more groups beyond P, which are lost where staleness does not let
    them be carried. 1.25 is our choice; the paper's generation batch corresponds to 3."""

    uniform: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        Filtering.__post_init__(self)
        require_ranges("allocator.", self, {"oversample": count()})

    def initial_state(self, prompts: PromptPool) -> DynamicSamplingState:
        """Return the state before the first draw."""
        return DynamicSamplingState(draws=self.draws.initial_state(prompts.num_prompts), rounds=0)

    def allocate(self, estimates: Estimates, state: DynamicSamplingState) -> Allocation:
        """Return 1 / N for every prompt."""
        return uniform_allocation(len(estimates.costs))

    def num_tickets(self, missing: int, so_far: BatchSoFar, state: DynamicSamplingState) -> int:
        """Return the missing groups times `oversample`, rounded up."""
        return whole(self.oversample * missing)
