"""sGPO (arXiv 2606.08854): profile all prompts once, then train on them sorted by difficulty.

    profile: 8 responses of every prompt          never trained on, counted as pilots
      -> pass rate -> dropped | group size 2, 4 or 8 | unsolved, a tenth of which is kept
    stage 2 -> stage 4 -> stage 8                 prompts of that group size and the kept unsolved

That the group size follows 1 / (pass rate), that trivial prompts are dropped, unsolved ones thinned
and the rest trained easy to hard is the paper's abstract. The numbers, the power-of-two buckets and
the mixing of the kept unsolved into every stage are from a re-implementation that quotes the
paper's equations (secondary). Ours: when a stage ends, the shuffled passes within it, responses per
batch that stay constant, and what becomes of failed prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cost.draws.allocators.types import Allocation, BatchSoFar, Estimates, Round, Snapshot
from cost.draws.draws import EpochDraws, EpochState
from cost.prompts import PromptPool, Visit
from cost.ranges import amount, count, positive, require_ranges
from cost.types import FloatArray, IntArray, LengthReport

DROPPED = 0
"""Stands in place of a group size: the prompt is never drawn again."""
UNSOLVED = -1
"""Stands in place of a group size: the prompt was kept without a success, and is drawn in every
stage with the group size of that stage."""
DRAWS = EpochDraws()

SizeArray = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class SgpoState:
    """The profile, and where the present stage stands."""

    group_sizes: SizeArray
    """[M <= N] group size of each profiled prompt, `DROPPED` or `UNSOLVED`."""
    num_tickets: int
    """How many tickets were drawn so far, which is the id of the next one."""
    group_size: int
    """Group size of the present stage; 0 before the first stage."""
    first_ticket: int
    """Id of the stage's first ticket; visits before it are of pilots or of an earlier stage."""
    draws: EpochState
    """The state of the draws, which pass over the stage's prompts."""
    pass_rate_sum: float
    """Sum of the pass rates that the visits of the present pass had."""
    num_visits: int
    """Number of visits of the present pass that had a usable reward."""
    best_pass_rate: float
    """Mean pass rate of the last pass of the stage that was better than the passes before it; -1
    before the first pass."""
    num_stale_passes: int
    """Passes that ended since that best one."""


@dataclass(frozen=True, slots=True)
class Sgpo:
    """A curriculum of stages, each with its prompts and its group size.

    Prompts are drawn in shuffled passes over those of the stage, with weight 1: the objective of a
    stage is the mean over its prompts, not that of uniform draws. A batch has P n / G tickets, n
    being `scheduler.group_size` and G the stage's, so the responses of a batch stay the same up to
    rounding.

    A stage ends when none of the last `patience` passes over its prompts had a mean pass rate more
    than `min_gain` above the best before; the first pass is always better than none. A pass ends
    with the folded batch that completes it. Stages without a prompt of their own are left out, and
    the last one goes on to the end of the run. If only unsolved prompts were kept, they are trained
    on with `max_group_size`.

    A prompt whose profile has no usable reward counts as unsolved.
    """

    profile_samples: int = 8
    """Responses per profiled prompt, at least 1."""
    profile_tickets: int = 256
    """Prompts profiled in one round, at least 1; every round waits for its longest response."""
    drop_above: float = 0.75
    """Prompts with a higher pass rate are dropped, in (0, 1]."""
    unsolved_share: float = 0.1
    """Chance of keeping a prompt with pass rate 0, in [0, 1]."""
    max_group_size: int = 8
    """Largest group size: a power of two, at least 2."""
    min_gain: float = 0.01
    """A pass that adds more than this to the best mean pass rate is better, in [0, 1]."""
    patience: int = 1
    """Passes without being better that end a stage, at least 1."""

    objective_preserving: ClassVar[bool] = False
    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {
            "profile_samples": count(),
            "profile_tickets": count(),
            "patience": count(),
            "drop_above": positive(1),
            "unsolved_share": amount(1),
            "min_gain": amount(1),
        }
        require_ranges("allocator.", self, ranges)
        size = self.max_group_size
        if size < 2 or size & (size - 1) or size > np.iinfo(np.int16).max:
            raise ValueError(
                "allocator.max_group_size must be a power of two from 2 to 16384, "
                f"got {self.max_group_size!r}"
            )

    def initial_state(self, prompts: PromptPool) -> SgpoState:
        """Return the state without a profile."""
        return SgpoState(
            group_sizes=np.zeros(0, dtype=np.int16),
            num_tickets=0,
            group_size=0,
            first_ticket=0,
            draws=DRAWS.initial_state(0),
            pass_rate_sum=0.0,
            num_visits=0,
            best_pass_rate=-1.0,
            num_stale_passes=0,
        )

    def update(self, state: SgpoState, prompts: PromptPool, visits: Sequence[Visit]) -> SgpoState:
        """Follow the stage's training pass rate; end the stage when it stops to rise."""
        reports = [visit.report for visit in visits if visit.usable.any()]
        rates = [_pass_rate(r) for r in reports if r.ticket_id >= state.first_ticket]
        state = replace(
            state,
            pass_rate_sum=state.pass_rate_sum + sum(rates),
            num_visits=state.num_visits + len(rates),
        )
        if not rates or state.num_visits < len(_members(state)):
            return state
        pass_rate = state.pass_rate_sum / state.num_visits
        better = pass_rate > state.best_pass_rate + self.min_gain
        state = replace(
            state,
            pass_rate_sum=0.0,
            num_visits=0,
            best_pass_rate=pass_rate if better else state.best_pass_rate,
            num_stale_passes=0 if better else state.num_stale_passes + 1,
        )
        following = _stages(state)
        if state.num_stale_passes < self.patience or len(following) == 0:
            return state
        return _entered(state, int(following[0]))

    def allocate(self, estimates: Estimates, state: SgpoState) -> Allocation:
        """Return the expected shares: uniform over the stage's prompts, 0 for all others.

        While prompts are profiled, the shares are uniform over all of them.
        """
        size = len(estimates.costs)
        shares: FloatArray = np.zeros(size)
        shares[_members(state) if state.group_size else slice(None)] = 1.0
        return Allocation(probabilities=shares / shares.sum(), weights=np.ones(size))

    def prepare(self, allocation: Allocation, rng: np.random.Generator) -> None:
        """Prepare nothing: the stage may change between the rounds of a batch."""

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: SgpoState
    ) -> tuple[Round, SgpoState]:
        """Profile what was not profiled, then draw a batch of the present stage; O(N).

        Raises:
            ValueError: If the profile leaves no prompt to train on.
        """
        state = self._classified(so_far, rng, state)
        num_profiled = len(state.group_sizes)
        if num_profiled < snapshot.num_prompts:
            end = min(num_profiled + self.profile_tickets, snapshot.num_prompts)
            return self._profile(np.arange(num_profiled, end), snapshot, state)
        if state.group_size == 0:
            state = _entered(state, self._first_stage(state))
        return self._train(so_far, rng, state)

    def _classified(
        self, so_far: BatchSoFar, rng: np.random.Generator, state: SgpoState
    ) -> SgpoState:
        """Take in the last round's profile, if there was one: all tickets so far are pilots."""
        if not so_far.tickets:
            return state
        # The first batch profiles all prompts, in their order.
        new = so_far.reports[len(state.group_sizes) :]
        rates = np.array([_pass_rate(report) for report in new])
        sizes = self.group_sizes_of(rates, rng)
        return replace(state, group_sizes=np.concatenate([state.group_sizes, sizes]))

    def group_sizes_of(self, pass_rates: FloatArray, rng: np.random.Generator) -> SizeArray:
        """Return [M] group size of each prompt, `DROPPED` or `UNSOLVED`.

        The largest power of two up to `max_group_size` that is at most 1 / (pass rate), and at
        least 2.

        Args:
            pass_rates: [M] in [0, 1].
            rng: Decides which of the unsolved are kept.
        """
        sizes = np.full(len(pass_rates), 2, dtype=np.int16)
        size = 4
        while size <= self.max_group_size:
            sizes[pass_rates * size <= 1] = size
            size *= 2
        sizes[pass_rates > self.drop_above] = DROPPED
        kept = rng.random(len(pass_rates)) < self.unsolved_share
        sizes[pass_rates == 0] = DROPPED
        sizes[(pass_rates == 0) & kept] = UNSOLVED
        return sizes

    def _profile(
        self, indices: IntArray, snapshot: Snapshot, state: SgpoState
    ) -> tuple[Round, SgpoState]:
        count = len(indices)
        drawn = Round(
            indices=indices,
            group_sizes=np.full(count, self.profile_samples, dtype=np.int64),
            probabilities=np.full(count, 1.0 / snapshot.num_prompts),
            weights=np.ones(count),
            trainable=False,
            final=False,
        )
        num_tickets = state.num_tickets + count
        return drawn, replace(state, num_tickets=num_tickets, first_ticket=num_tickets)

    def _first_stage(self, state: SgpoState) -> int:
        stages = _stages(state)
        if len(stages):
            return int(stages[0])
        if (state.group_sizes == UNSOLVED).any():
            return self.max_group_size
        raise ValueError(
            "allocator.drop_above and allocator.unsolved_share must leave a prompt to train on: "
            f"each of the {len(state.group_sizes)} prompts has a pass rate above "
            f"{self.drop_above!r} and was dropped, or of 0 and was not kept; raise one of them or "
            f"take other prompts, got {self.drop_above!r} and {self.unsolved_share!r}"
        )

    def _train(
        self, so_far: BatchSoFar, rng: np.random.Generator, state: SgpoState
    ) -> tuple[Round, SgpoState]:
        members = _members(state)
        count = max(1, round(so_far.num_groups * so_far.group_size / state.group_size))
        probability = 1.0 / len(members)
        prepared = DRAWS.prepare(np.full(len(members), probability), rng)
        positions, draws = DRAWS.draw(state.draws, prepared, count, rng)
        drawn = Round(
            indices=members[positions],
            group_sizes=np.full(count, state.group_size, dtype=np.int64),
            probabilities=np.full(count, probability),
            weights=np.ones(count),
        )
        return drawn, replace(state, draws=draws, num_tickets=state.num_tickets + count)


def _pass_rate(report: LengthReport) -> float:
    """Return the mean of the usable rewards, each clipped to [0, 1]; 0 if there is none."""
    rewards = report.rewards[report.usable]
    return float(np.clip(rewards, 0, 1).mean()) if len(rewards) else 0.0


def _members(state: SgpoState) -> IntArray:
    """Return the prompts of the present stage, ascending."""
    sizes = state.group_sizes
    return np.flatnonzero((sizes == state.group_size) | (sizes == UNSOLVED))


def _stages(state: SgpoState) -> Any:
    """Return the group sizes of the later stages that have prompts, ascending."""
    sizes = np.unique(state.group_sizes)
    return sizes[sizes > state.group_size]


def _entered(state: SgpoState, group_size: int) -> SgpoState:
    """Return the state at the beginning of a stage."""
    state = replace(state, group_size=group_size, first_ticket=state.num_tickets)
    return replace(
        state,
        draws=DRAWS.initial_state(len(_members(state))),
        pass_rate_sum=0.0,
        num_visits=0,
        best_pass_rate=-1.0,
        num_stale_passes=0,
    )
