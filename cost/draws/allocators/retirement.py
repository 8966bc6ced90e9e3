"""No-positive-resampling of ScaleRL (arXiv 2510.13786): solved prompts are not drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import draw_round
from cost.draws.allocators.filtering import walk
from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates, Round, Snapshot
from cost.draws.draws import EpochDraws
from cost.prompts import PromptPool, Visit
from cost.ranges import positive, require_ranges
from cost.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class RetirementState:
    """Who is retired, and where the draws stand."""

    draws: Any
    """The state of the draws."""
    retired: BoolArray
    """[M <= N] True for retired prompts; prompts beyond M are not retired."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """Draws uniformly, with weights of 1, from the prompts that no group has solved well enough.

    The paper retires prompts with a pass rate of at least .9 for good; here the mean usable reward
    of one group decides, and a group without a usable reward decides nothing. When all prompts are
    retired, all return (ours).
    The objective becomes the mean over the prompts that are left.
    """

    pass_rate: float = 0.9
    """Mean usable reward of a group at which its prompt retires, positive."""
    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol), which is given
    uniform probabilities."""

    objective_preserving: ClassVar[bool] = False
    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("allocator.", self, {"pass_rate": positive()})

    def initial_state(self, prompts: PromptPool) -> RetirementState:
        """Return the state in which nobody is retired."""
        size = prompts.num_prompts
        return RetirementState(self.draws.initial_state(size), np.zeros(size, dtype=np.bool_))

    def update(
        self, state: RetirementState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> RetirementState:
        """Retire the prompts that one batch's groups solved."""
        retired = state.retired.copy()
        for visit in visits:
            rewards = visit.report.rewards[visit.usable]
            if len(rewards) and rewards.mean() >= self.pass_rate:
                retired[visit.report.prompt_index] = True
        return replace(state, retired=retired & ~retired.all())

    def allocate(self, estimates: Estimates, state: RetirementState) -> Allocation:
        """Return the same share for all prompts that are left, 0 for the retired."""
        left = ~state.retired
        return Allocation(probabilities=left / left.sum(), weights=np.ones(len(left)))

    def prepare(self, allocation: Allocation, rng: np.random.Generator) -> Any:
        """Prepare uniform draws: the retired are skipped when met."""
        size = len(allocation.probabilities)
        return self.draws.prepare(np.full(size, 1.0 / size), rng)

    def next_round(
        self,
        so_far: BatchSoFar,
        snapshot: Snapshot,
        rng: np.random.Generator,
        state: RetirementState,
    ) -> tuple[Round, RetirementState]:
        """Draw P prompts that are not retired."""
        left: FloatArray = np.where(state.retired, 0.0, 1.0)
        indices, _, draws = walk(
            self.draws, state.draws, snapshot.prepared, left, so_far.num_groups, rng
        )
        sizes = np.full(len(indices), so_far.group_size, dtype=np.int64)
        return draw_round(indices, sizes, snapshot), replace(state, draws=draws)
