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
    """What is believed of the N prompts."""

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
    """[N] sums to 1; positive where the objective is preserved. A member that does not draw by them
    states the shares it expects."""
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
        """N."""
        return len(self.allocation.probabilities)


@dataclass(frozen=True, slots=True)
class BatchSoFar:
    """One batch while it is drawn."""

    num_groups: int
    """P: groups to learn from."""
    group_size: int
    """Responses per group, on average."""
    tickets: Sequence[Ticket]
    """Drawn for this batch so far, in draw order."""
    reports: Sequence[LengthReport]
    """Theirs, in the same order; complete."""
    gradient_norms: Mapping[int, FloatArray]
    """By ticket id, [n] norms of the responses' gradients, for rounds that asked for them."""
    carried: Sequence[int]
    """Ids of tickets accepted while an earlier batch was drawn and not learned yet."""


@dataclass(frozen=True, slots=True)
class Round:
    """Tickets to issue; all arrays have m entries, in draw order."""

    indices: IntArray
    """[m] prompts."""
    group_sizes: IntArray
    """[m] responses of each, at least 1."""
    probabilities: FloatArray
    """[m] per-draw probability of each prompt, in (0, 1]."""
    weights: FloatArray
    """[m] design weights."""
    trainable: bool = True
    """False for pilots and profiles, which are generated to inform and never trained on."""
    gradient_norms: bool = False
    """Whether the next round needs the norms of these tickets' responses."""
    final: bool = True
    """True if the batch consists of the carried tickets and those of this round."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The batch needs no more tickets."""

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
            so_far: The batch; without tickets in its first round.
            snapshot: What is believed, the same for all rounds of the batch.
            rng: Stream of this round, used for nothing else.
            state: The state after the last round.
        """
