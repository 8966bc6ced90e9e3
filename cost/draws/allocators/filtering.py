"""Allocators that leave groups out after seeing their rewards: what they share.

    pick -> Round -> reports -> mixed? -> accepted     until P are accepted, in draw order
                            -> else filtered

Groups are accepted by their place in the draw order, never by who finished first: that would favour
short responses. The batch is the first P accepted; what is drawn beyond them is carried to the next
batches as long as it is fresh enough, and filtered else.

None of these preserves the objective. With n responses of which each passes with probability a, a
group is mixed with probability 1 - a^n - (1 - a)^n, and prompts enter a batch in proportion to it.
The direction of the expected gradient is still that of uniform draws, its length multiplied by
1 / P(mixed), but only if the groups left out have no gradient at all: advantages relative to the
group, no KL or entropy term (derived by us).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import draw_round
from cost.draws.allocators.types import Allocation, BatchSoFar, Complete, Round, Snapshot
from cost.draws.draws import Draws, EpochDraws
from cost.prompts import PromptPool, Visit
from cost.ranges import count, require_ranges
from cost.types import FloatArray, IntArray, LengthReport


@dataclass(frozen=True, slots=True)
class Filtering:
    """Base of allocators that draw rounds until P groups have rewards that differ.

    A subclass gives `allocate`, `num_tickets`, and may override `pick` and `update`. Its state has
    the fields `draws` (the state of its draws) and `rounds` (rounds drawn of the open batch).
    """

    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol), which is given
    uniform probabilities."""
    max_rounds: int = 10
    """Rounds after which a batch is learned with what was accepted, fewer than P groups or even
    none, at least 1. 10 is DAPO's number of generation batches."""

    objective_preserving: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("allocator.", self, {"max_rounds": count()})

    def update(self, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
        """Return the state unchanged: nothing is learned from visits."""
        return state

    def prepare(self, allocation: Allocation, rng: np.random.Generator) -> Any:
        """Prepare uniform draws, whatever the allocation: pick decides what comes of them."""
        size = len(allocation.probabilities)
        return self.draws.prepare(np.full(size, 1.0 / size), rng)

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[Round | Complete, Any]:
        """Draw for the groups still missing; complete if there are none, or after `max_rounds`."""
        ids = accepted(so_far)
        missing = so_far.num_groups - len(ids)
        if missing <= 0 or state.rounds >= self.max_rounds:
            return Complete(ids), replace(state, rounds=0)
        count = self.num_tickets(missing, so_far, state)
        indices, state = self.pick(count, snapshot, rng, state)
        sizes = np.full(len(indices), so_far.group_size, dtype=np.int64)
        drawn = draw_round(indices, sizes, snapshot, final=False)
        return drawn, replace(state, rounds=state.rounds + 1)

    def num_tickets(self, missing: int, so_far: BatchSoFar, state: Any) -> int:
        """Return how many tickets to draw for `missing` more accepted groups, at least 1."""
        raise NotImplementedError

    def pick(
        self, count: int, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[IntArray, Any]:
        """Return [count] prompts to draw next, and the state."""
        indices, draws = self.draws.draw(state.draws, snapshot.prepared, count, rng)
        return indices, replace(state, draws=draws)


def walk(
    draws: Draws,
    state: Any,
    prepared: Any,
    keep_probabilities: FloatArray,
    count: int,
    rng: np.random.Generator,
) -> tuple[IntArray, int, Any]:
    """Draw on, skipping prompts at random, until `count` were not skipped.

    Args:
        draws: The way in which prompts are met; with `EpochDraws` each is met once a pass.
        state: The state of the draws.
        prepared: What the draws prepared.
        keep_probabilities: [N] chance of not being skipped, at least one of them positive.
        count: The number of prompts to return.
        rng: A stream that is used for nothing else.

    Returns:
        [count] prompts, how many were met, and the state. The last one met is the last returned.
    """
    taken = np.zeros(0, dtype=np.int64)
    num_met = 0
    while len(taken) < count:
        # No more than are missing: the walk must not pass the last one taken.
        met, state = draws.draw(state, prepared, count - len(taken), rng)
        chosen = met[rng.random(len(met)) < keep_probabilities[met]]
        taken, num_met = np.concatenate([taken, chosen]), num_met + len(met)
    return taken, num_met, state


def mixed(report: LengthReport) -> bool:
    """Tell whether two usable rewards of the group differ; False for an empty group."""
    rewards = report.rewards[report.usable]
    return len(rewards) > 0 and bool(rewards.max() > rewards.min())


def whole(tickets: float) -> int:
    """Round a number of tickets up; products such as 1.1 * 50 are a little more than meant."""
    return math.ceil(tickets - 1e-9)


def accepted(so_far: BatchSoFar) -> list[int]:
    """Return the ids of the tickets worth learning from, carried ones first, in draw order."""
    return [*so_far.carried, *(r.ticket_id for r in so_far.reports if mixed(r))]
