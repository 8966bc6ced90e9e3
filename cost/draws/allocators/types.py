"""Plug `allocator`: which prompts a batch samples, how often each, and which groups it learns from.

Contract, beside `objective_preserving`, `uniform` and the learning methods of cost/state.py:

    allocate(estimates, state) -> Allocation                   once a snapshot, O(N)
    prepare(allocation, rng) -> prepared                       once a snapshot, O(N)
    next_round(so_far, snapshot, rng, state) -> Round | Complete, state       O(tickets)

A batch is drawn in rounds. Most members need one `Round`, marked `final`: its tickets are the
batch. A member that must see responses before it goes on (pilots, profiles, groups that may be
filtered) returns rounds that are not final; it is asked again when all tickets of the batch so far
were reported, until it returns a final round or `Complete`.

`objective_preserving` is True if weights undo the probabilities, so that the expected gradient is
that of uniform draws. Group sizes may vary where they follow from what was known before the draw:
the estimator averages within each group. That is exact for advantages whose expected group gradient
does not depend on the group's size; `varies_group_sizes` tells. `uniform` is True if every prompt
is equally likely and every group of the same size. The flags may depend on a member's settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from cost.prompts import PromptPool, Visit
from cost.types import FloatArray, IntArray, LengthReport, Ticket


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the scheduler believes of the N prompts."""

    lengths: FloatArray
    """[N] expected response length, tokens."""
    costs: FloatArray
    """[N] expected cost of a response, positive, in the price's unit."""
    pass_rates: FloatArray
    """[N] expected pass rate, in [0, 1]."""
    utilities: FloatArray
    """[N] expected second moment of a ticket's gradient, not negative, any scale."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """How often each prompt is drawn and what a draw weighs."""

    probabilities: FloatArray
    """[N] chance of each prompt in one draw; they sum to 1, and are positive where the objective is
    preserved. A member that does not draw by them states the shares it expects."""
    weights: FloatArray
    """[N] design weight of a draw: 1 / (N p) where the objective is preserved."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What all draws of a step are made from."""

    estimates: Estimates
    allocation: Allocation
    prepared: Any
    """What the allocator's `prepare` made, such as cumulated probabilities."""

    @property
    def num_prompts(self) -> int:
        """N, the number of prompts."""
        return len(self.allocation.probabilities)


@dataclass(frozen=True, slots=True)
class BatchSoFar:
    """What is known of a batch while it is drawn."""

    num_groups: int
    """P, the number of groups to learn from."""
    group_size: int
    """Responses per group, as a mean over the batch."""
    tickets: Sequence[Ticket]
    """The tickets drawn for this batch so far, in draw order."""
    reports: Sequence[LengthReport]
    """The reports of these tickets in the same order; every ticket has one."""
    gradient_norms: Mapping[int, FloatArray]
    """[n] norms of the responses' gradients by ticket id, for the rounds that asked for them."""
    carried: Sequence[int]
    """Ids of the tickets that were accepted while an earlier batch was drawn, and that no batch has
    learned from yet."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of tickets to issue; all arrays have m entries, in draw order."""

    indices: IntArray
    """[m] index of the prompt of each ticket."""
    group_sizes: IntArray
    """[m] responses to generate for each ticket, at least 1."""
    probabilities: FloatArray
    """[m] per-draw probability of each ticket's prompt, in (0, 1]."""
    weights: FloatArray
    """[m] design weight of each ticket, positive."""
    trainable: bool = True
    """False for pilots and profiles, which are generated to inform and never trained on."""
    gradient_norms: bool = False
    """Whether the next round needs the norms of these tickets' responses."""
    final: bool = True
    """True if the batch consists of the carried tickets and those of this round."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer of an allocator whose batch needs no more tickets."""

    accepted: Sequence[int]
    """Ids of all tickets worth learning from, in draw order, carried ones first. The first P make
    the batch, the others are carried."""


@runtime_checkable
class Allocator(Protocol):
    """Decides how tokens are spent on prompts."""

    objective_preserving: ClassVar[bool]
    uniform: ClassVar[bool]
    varies_group_sizes: ClassVar[bool]

    def initial_state(self, prompts: PromptPool) -> Any:
        """Return the state before the first draw."""

    def update(self, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
        """Learn from one batch's finished tickets, pilots included, in ticket order."""

    def allocate(self, estimates: Estimates, state: Any) -> Allocation:
        """Allocate draws to all prompts; what `next_round` alone changed must not matter.

        A snapshot taken anew after a restart, between rounds, is then the same.
        """

    def prepare(self, allocation: Allocation, rng: np.random.Generator) -> Any:
        """Do the O(N) part of drawing, once for all draws from a snapshot."""

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[Round | Complete, Any]:
        """Return what to draw next for a batch, and the state after it.

        Args:
            so_far: The batch; it has no tickets before its first round.
            snapshot: What is believed, which is the same for all rounds of the batch.
            rng: The stream of this round, which is used for nothing else.
            state: The state after the last round.
        """
