"""How prompts are drawn, given their probabilities: the `draws` field of every allocator.

Contract: `initial_state(num_prompts)` and `draw(state, probabilities, num_draws, rng) -> (indices,
state)`. For every position k of the answer P(indices[k] = i) = p_i, given what was known before the
draw; this alone makes weights 1 / (N p_i) unbiased. `any_probabilities` is False for a member that
can only draw uniformly.

Systematic sampling lays the expected counts m p_i end to end in random order on [0, m) and takes
the prompts under the points u, u + 1, ..., u + m - 1 with one u uniform on [0, 1). An interval of
length m p_i holds m p_i such points on average, hence E (1/m) sum_k g_{i_k} / (N p_{i_k}) = (1/m)
sum_i (m p_i) g_i / (N p_i) = mean of g. Counts are within 1 of expectation, so the batch varies
less than under independent draws. The result is shuffled, so each position alone has probability
p_i.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from cost.state import NoState
from cost.types import FloatArray, IntArray


class Draws(Protocol):
    """Draws prompts."""

    any_probabilities: ClassVar[bool]

    def initial_state(self, num_prompts: int) -> Any:
        """Return the state before the first draw."""

    def draw(
        self, state: Any, probabilities: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, Any]:
        """Draw prompts.

        Args:
            state: State after the last draw.
            probabilities: [N] float64, positive, sums to 1.
            num_draws: m.
            rng: Used for nothing else.

        Returns:
            [m] int64 prompt indices in draw order, and the state.
        """


@dataclass(frozen=True, slots=True)
class IndependentDraws:
    """Independent draws with replacement."""

    any_probabilities: ClassVar[bool] = True

    def initial_state(self, num_prompts: int) -> NoState:
        """Return the empty state."""
        return NoState()

    def draw(
        self, state: NoState, probabilities: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, NoState]:
        """Draw by inversion of the cumulated probabilities."""
        edges = np.cumsum(probabilities)
        indices = np.searchsorted(edges, rng.random(num_draws) * edges[-1], side="right")
        return np.minimum(indices, len(edges) - 1), state


@dataclass(frozen=True, slots=True)
class SystematicDraws:
    """One random start for the whole batch; counts within 1 of expectation."""

    any_probabilities: ClassVar[bool] = True

    def initial_state(self, num_prompts: int) -> NoState:
        """Return the empty state."""
        return NoState()

    def draw(
        self, state: NoState, probabilities: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, NoState]:
        """Draw with expected counts m p_i, in shuffled order."""
        order = rng.permutation(len(probabilities))
        expected = probabilities[order] * (num_draws / probabilities.sum())
        counts = systematic_counts(expected, rng.random(), total=num_draws)
        return rng.permutation(np.repeat(order, counts)), state


@dataclass(frozen=True, slots=True)
class EpochState:
    """Where a pass over the prompts stands; 8 bytes a prompt."""

    permutation: IntArray
    """[N] order of the present pass."""
    cursor: int
    """Prompts of it already drawn."""


@dataclass(frozen=True, slots=True)
class EpochDraws:
    """Passes over the prompts in reshuffled order, each prompt once a pass: plain GRPO.

    A batch may span two passes. Prompts added during a pass are mixed into the rest of it.
    """

    any_probabilities: ClassVar[bool] = False

    def initial_state(self, num_prompts: int) -> EpochState:
        """Return the state that starts a pass at the next draw."""
        return EpochState(permutation=np.arange(num_prompts, dtype=np.int64), cursor=num_prompts)

    def draw(
        self, state: EpochState, probabilities: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, EpochState]:
        """Take the next prompts of the pass.

        Raises:
            ValueError: If the probabilities are not uniform.
        """
        size = len(probabilities)
        if np.ptp(probabilities) > 1e-9 / size:
            raise ValueError(
                "allocator.draws: EpochDraws needs uniform probabilities, "
                f"got a largest of {float(probabilities.max() * size)!r} times uniform"
            )
        permutation, cursor = state.permutation, state.cursor
        if size > len(permutation) > cursor:
            rest = np.concatenate([permutation[cursor:], np.arange(len(permutation), size)])
            permutation = np.concatenate([permutation[:cursor], rng.permutation(rest)])
        taken: list[IntArray] = []
        missing = num_draws
        while missing:
            if cursor >= len(permutation):
                permutation, cursor = rng.permutation(size), 0
            part = permutation[cursor : cursor + missing]
            taken.append(part)
            cursor, missing = cursor + len(part), missing - len(part)
        indices = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
        return indices, EpochState(permutation=permutation, cursor=cursor)


def systematic_counts(expected: FloatArray, start: float, *, total: int | None = None) -> IntArray:
    """Count the points start, start + 1, ... under each of the intervals laid end to end.

    Args:
        expected: [M] float64 interval lengths, not negative: the expected counts.
        start: In [0, 1); uniform for unbiased counts.
        total: Sum of `expected` where it is known to be an integer; rounding of the sum then cannot
            add or lose a point.

    Returns:
        [M] int64, each within 1 of `expected`.
    """
    edges = np.cumsum(expected)
    points_below = np.ceil(edges - start).astype(np.int64)
    if total is not None:
        points_below = np.minimum(points_below, total)
        points_below[-1:] = total
    return np.diff(points_below, prepend=0)
