"""How prompts are drawn, given their probabilities: the `draws` field of many allocators.

Contract: `initial_state(num_prompts)`, `prepare(probabilities, rng) -> prepared` once a snapshot,
and `draw(state, prepared, num_draws, rng) -> (indices, state)`. For every position k of the answer
P(indices[k] = i) = p_i, given what was known before the draw; this alone makes weights 1 / (N p_i)
unbiased. `any_probabilities` says whether a member keeps to that for all p.

Passes do not: a draw is of the prompts that the pass has not met yet, a uniform sample of all of
them, whatever was learned of the others meanwhile. `EpochDraws` can draw uniformly alone, where
weights of 1 are right all the same. `PassDraws` draws prompt i of the unmet set S with probability
p_i / sum_S p, so that its weights are mean_S(p) / p_i; it is no member, for it answers with them.

Systematic sampling lays the probabilities end to end in random order on [0, 1) and takes the
prompts under the points (u + k) / m, k < m, with one u uniform on [0, 1). An interval of length p_i
holds m p_i such points on average, hence E (1/m) sum_k g_{i_k} / (N p_{i_k}) = (1/m) sum_i (m p_i)
g_i / (N p_i) = mean of g. Counts are within 1 of expectation, so the batch varies less than under
independent draws. The result is shuffled, so each position alone has probability p_i. The order is
drawn once for all batches of a snapshot and u for each, so each batch keeps these laws.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from cost.state import NoState
from cost.types import FloatArray, IntArray


class Draws(Protocol):
    """A way to draw prompts from given probabilities."""

    any_probabilities: ClassVar[bool]

    def initial_state(self, num_prompts: int) -> Any:
        """Return the state before the first draw."""

    def prepare(self, probabilities: FloatArray, rng: np.random.Generator) -> Any:
        """Do what takes O(N) once for all draws with these probabilities.

        Args:
            probabilities: [N] float64, positive, sums to 1.
            rng: A stream that is used for nothing else.
        """

    def draw(
        self, state: Any, prepared: Any, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, Any]:
        """Draw prompts.

        Args:
            state: The state after the last draw.
            prepared: What `prepare` returned.
            num_draws: m, the number of prompts to draw.
            rng: A stream that is used for nothing else.

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

    def prepare(self, probabilities: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the cumulated probabilities."""
        return np.cumsum(probabilities)

    def draw(
        self, state: NoState, prepared: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, NoState]:
        """Draw by inversion of the cumulated probabilities."""
        return _under(prepared, rng.random(num_draws)), state


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Prompts in random order with the right ends of their intervals; 16 bytes a prompt."""

    order: IntArray
    """[N] prompts in the order in which their intervals lie."""
    edges: FloatArray
    """[N] cumulated probabilities in that order."""


@dataclass(frozen=True, slots=True)
class SystematicDraws:
    """One random start for the whole batch; counts within 1 of expectation."""

    any_probabilities: ClassVar[bool] = True

    def initial_state(self, num_prompts: int) -> NoState:
        """Return the empty state."""
        return NoState()

    def prepare(self, probabilities: FloatArray, rng: np.random.Generator) -> LaidOut:
        """Lay the prompts out in random order."""
        order = rng.permutation(len(probabilities))
        return LaidOut(order=order, edges=np.cumsum(probabilities[order]))

    def draw(
        self, state: NoState, prepared: LaidOut, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, NoState]:
        """Draw with expected counts m p_i, in shuffled order."""
        points = (rng.random() + np.arange(num_draws)) / max(num_draws, 1)
        return rng.permutation(prepared.order[_under(prepared.edges, points)]), state


def _under(edges: FloatArray, points: FloatArray) -> IntArray:
    """Return the interval that holds each point of [0, 1), the edges scaled to end at 1."""
    # A point that rounds to 1 belongs to the last interval that is not empty.
    inside = np.minimum(points * edges[-1], np.nextafter(edges[-1], 0.0))
    found: IntArray = np.searchsorted(edges, inside, side="right")
    return found


@dataclass(frozen=True, slots=True)
class EpochState:
    """Where a pass over the prompts stands; 8 bytes a prompt."""

    permutation: IntArray
    """[N] order of the present pass."""
    cursor: int
    """Number of prompts of the present pass that were drawn already."""


@dataclass(frozen=True, slots=True)
class EpochDraws:
    """Passes over the prompts in reshuffled order, each prompt once a pass: plain GRPO.

    A batch may span two passes.
    """

    any_probabilities: ClassVar[bool] = False

    def initial_state(self, num_prompts: int) -> EpochState:
        """Return the state that starts a pass at the next draw."""
        return EpochState(permutation=np.arange(num_prompts, dtype=np.int64), cursor=num_prompts)

    def prepare(self, probabilities: FloatArray, rng: np.random.Generator) -> int:
        """Return N, all that there is to prepare.

        Raises:
            ValueError: If the probabilities are not uniform.
        """
        size = len(probabilities)
        if np.ptp(probabilities) > 1e-9 / size:
            raise ValueError(
                "allocator.draws: EpochDraws needs uniform probabilities, "
                f"got a largest of {float(probabilities.max() * size)!r} times uniform"
            )
        return size

    def draw(
        self, state: EpochState, prepared: int, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, EpochState]:
        """Take the next prompts of the pass."""
        size = prepared
        permutation, cursor = state.permutation, state.cursor
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


@dataclass(frozen=True, slots=True)
class PassDraws:
    """Passes over the prompts in reshuffled order, each prompt taken or passed over by a coin.

    A prompt that comes up is taken with chance q_i = p_i / max p, at most once a pass. With even
    chances this is `EpochDraws`, and as there it keeps the prompts' own differences out of the
    noise. What comes up next is a uniform draw from the set S that the pass has not met, so it adds
    E (coin / q_i) g_i = mean_S(g), whatever p is by now, and m draws take m / mean_S(q) of them:

        E (1 / m) sum_taken (mean_S(q) / q_i) g_i = mean_S(g)        E mean_S(g) = mean of g

    with S as it was when the batch began, or all prompts once it goes on in a new pass. Weights
    1 / (N p_i) are those of a p that stays. Where a pass learns that most of what it met is worth
    little, they make its later steps too small. Exact up to terms of order 1 / N, since coins
    decide how many prompts a batch meets, not only where a pass ends: of few prompts, those of
    small q count a little less than others (ours; Poisson sampling of a finite population,
    textbook).
    """

    any_probabilities: ClassVar[bool] = False

    def initial_state(self, num_prompts: int) -> EpochState:
        """Return the state that starts a pass at the next draw."""
        return EpochState(permutation=np.arange(num_prompts, dtype=np.int64), cursor=num_prompts)

    def prepare(self, probabilities: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the chance of each prompt to be taken when it comes up, [N] in (0, 1]."""
        chances: FloatArray = probabilities / probabilities.max()
        return chances

    def draw_weighted(
        self, state: EpochState, prepared: FloatArray, num_draws: int, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray, EpochState]:
        """Go on with the pass until enough prompts were taken; O(N), for it looks at all unmet.

        Args:
            state: The state after the last draw.
            prepared: What `prepare` returned.
            num_draws: m, the number of prompts to draw.
            rng: A stream that is used for nothing else.

        Returns:
            [m] int64 prompt indices in draw order, [m] float64 their weights, and the state.
        """
        permutation, cursor = state.permutation, state.cursor
        unmet = prepared[permutation[cursor:]]
        mean = float(unmet.mean()) if len(unmet) else 1.0
        taken: list[IntArray] = []
        weights: list[FloatArray] = []
        missing = num_draws
        while missing:
            if cursor >= len(permutation):
                permutation, cursor = rng.permutation(len(prepared)), 0
                mean = float(prepared.mean())
            # As many as are likely to do; those after the last one taken come up again.
            part = permutation[cursor : cursor + 2 * missing + 16]
            found = np.flatnonzero(rng.random(len(part)) < prepared[part])[:missing]
            taken.append(part[found])
            weights.append(mean / prepared[taken[-1]])
            missing -= len(found)
            cursor += len(part) if missing else int(found[-1]) + 1
        indices = np.concatenate([np.zeros(0, dtype=np.int64), *taken])
        state = EpochState(permutation=permutation, cursor=cursor)
        return indices, np.concatenate([np.zeros(0), *weights]), state


def systematic_counts(expected: FloatArray, start: float) -> IntArray:
    """Count the points start, start + 1, ... under each of the intervals laid end to end.

    Args:
        expected: [M] float64 interval lengths, not negative: the expected counts.
        start: Place of the first point, in [0, 1); uniform for unbiased counts.

    Returns:
        [M] int64, each within 1 of `expected`.
    """
    edges = np.cumsum(expected)
    points_below = np.ceil(edges - start).astype(np.int64)
    return np.diff(points_below, prepend=0)
