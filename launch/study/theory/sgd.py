"""Cost-Aware SGD on a convex finite sum: unbiased samplers and projected descent.

The method is the paper's (Mohri et al. 2026, arXiv 2604.28020, abstracts); its details were not
available to us and are ours. Which probabilities and steps to take, and what they cost, is in
`launch/study/theory/bounds.py`; which components to leave out in `launch/study/theory/subset.py`.

Shapes: n components, d dimensions, K contestants (a sampler with a step size), S seeds, m draws of
one step, r points.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray
from launch.study.theory.bounds import second_moment

MOST_UNIFORMS = 1_000_000
"""Random numbers drawn ahead at a time: 8 MB."""


class Sampler(Protocol):
    """How one step chooses components; sum_k weight_k grad f_{i_k} estimates grad f unbiasedly."""

    @property
    def num_uniforms(self) -> int:
        """Return how many uniform random numbers one step consumes."""

    def draw(self, uniforms: FloatArray) -> tuple[IntArray, FloatArray]:
        """Turn [..., num_uniforms] uniforms into [..., m] indices and weights; weight 0 is none."""

    def step_cost(self, costs: FloatArray) -> float:
        """Return the expected cost of a step."""

    def variance(self, norms: FloatArray, signal: float) -> float:
        """Return E|estimate - grad f|^2 where component i has norm G_i and signal is |grad f|^2."""


@dataclass(frozen=True, slots=True)
class WithReplacement:
    """`num_draws` independent draws a step, each of weight 1 / (num_draws p)."""

    probabilities: FloatArray
    """[n], summing to 1."""
    num_draws: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        p = self.probabilities
        if not ((p >= 0).all() and abs(float(p.sum()) - 1) < 1e-9):
            raise ValueError(f"probabilities must not be negative and sum to 1, got {p!r}")
        if self.num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {self.num_draws!r}")

    @property
    def num_uniforms(self) -> int:
        """Return one for each draw."""
        return self.num_draws

    def draw(self, uniforms: FloatArray) -> tuple[IntArray, FloatArray]:
        """Invert the distribution function."""
        edges = np.cumsum(self.probabilities)
        found = np.searchsorted(edges, uniforms * edges[-1], side="right")
        # Rounding may carry the largest uniform past the last edge.
        indices = np.minimum(found, np.flatnonzero(self.probabilities)[-1])
        return indices, 1 / (self.num_draws * self.probabilities[indices])

    def step_cost(self, costs: FloatArray) -> float:
        """Return num_draws C(p)."""
        return self.num_draws * float(self.probabilities @ costs)

    def variance(self, norms: FloatArray, signal: float) -> float:
        """Return (V(p) - S) / num_draws."""
        return (second_moment(self.probabilities, norms) - signal) / self.num_draws


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each component on its own, with its inclusion probability and weight 1 / p.

    `Poisson(waterfill(norms, costs, budget))` spends `budget` a step at least variance.
    """

    probabilities: FloatArray
    """[n] in [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        p = self.probabilities
        if not ((p >= 0).all() and (p <= 1).all()):
            raise ValueError(f"probabilities must lie in [0, 1], got {p!r}")

    @property
    def num_uniforms(self) -> int:
        """Return one for each component."""
        return len(self.probabilities)

    def draw(self, uniforms: FloatArray) -> tuple[IntArray, FloatArray]:
        """Include where the uniform is below p; rows end in weight 0 up to one length."""
        included: BoolArray = uniforms < self.probabilities
        counts = included.sum(axis=-1)
        taken = np.arange(max(int(counts.max(initial=0)), 1)) < counts[..., None]
        indices = np.zeros(taken.shape, dtype=np.int64)
        indices[taken] = np.flatnonzero(included) % len(self.probabilities)
        return indices, taken / np.where(taken, self.probabilities[indices], 1.0)

    def step_cost(self, costs: FloatArray) -> float:
        """Return the expected budget, sum p c."""
        return float(self.probabilities @ costs)

    def variance(self, norms: FloatArray, signal: float) -> float:
        """Return sum_i G_i^2 (1 / p_i - 1), whatever the signal."""
        return second_moment(self.probabilities, norms) - float(norms @ norms)


# Descent


class FiniteSum(Protocol):
    """f = sum_i f_i, each convex and differentiable."""

    def weighted_gradient(
        self, points: FloatArray, indices: IntArray, weights: FloatArray
    ) -> FloatArray:
        """Return [r, d] sum_k weights[r, k] grad f_i(points[r]) over i = indices[r, k]."""

    def value(self, points: FloatArray) -> FloatArray:
        """Return f [r] at points [r, d]."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where K x S runs stand after some steps."""

    num_steps: int
    spent: FloatArray
    """[K, S] realised cost so far."""
    average: FloatArray
    """[K, S, d] mean of the iterates w_0 .. w_{T-1}."""
    moment: FloatArray
    """[K, S] mean of |estimate|^2 so far."""


def descend(
    problem: FiniteSum,
    contestants: Sequence[tuple[Sampler, float]],
    generators: Sequence[np.random.Generator],
    *,
    costs: FloatArray,
    start: FloatArray,
    radius: float,
    checkpoints: Iterable[int],
) -> Iterator[Checkpoint]:
    """Run projected SGD for every contestant and seed at once.

    Runs of one seed share their uniform random numbers, so contestants are best compared in pairs.

    Args:
        problem: What to minimise.
        contestants: K pairs of a sampler and its constant step size.
        generators: S random streams, one a seed.
        costs: [n] cost of each component.
        start: [d] first iterate and centre of the ball.
        radius: Of the ball that is projected on.
        checkpoints: Increasing numbers of steps at which to report.
    """
    samplers = [sampler for sampler, _ in contestants]
    num_seeds = len(generators)
    shape = (len(samplers), num_seeds)
    steps = np.repeat([step for _, step in contestants], num_seeds)[:, None]
    offsets = np.zeros((len(steps), len(start)))
    sums, spent, squares = np.zeros_like(offsets), np.zeros(len(steps)), np.zeros(len(steps))
    width = max(sampler.num_uniforms for sampler in samplers)
    longest = max(MOST_UNIFORMS // (width * num_seeds), 1)
    done = 0
    for checkpoint in checkpoints:
        while done < checkpoint:
            block = min(checkpoint - done, longest)
            uniforms = np.stack([rng.random((block, width)) for rng in generators], axis=1)
            indices, weights = _draw_all(samplers, uniforms)
            for chosen, weight in zip(indices, weights, strict=True):
                sums += offsets
                gradients = problem.weighted_gradient(start + offsets, chosen, weight)
                squares += np.einsum("rd,rd->r", gradients, gradients)
                offsets -= steps * gradients
                lengths = np.sqrt(np.einsum("rd,rd->r", offsets, offsets))
                offsets *= (radius / np.maximum(lengths, radius))[:, None]
            spent += np.where(weights > 0, costs[indices], 0.0).sum(axis=(0, 2))
            done += block
        yield Checkpoint(
            done,
            spent.reshape(shape).copy(),
            (start + sums / done).reshape(*shape, -1),
            squares.reshape(shape) / done,
        )


@dataclass(frozen=True, slots=True)
class Reached:
    """What it took to reach a target; infinite cost where it was not reached."""

    cost: FloatArray
    """[K, S] realised cost, linear between checkpoints."""
    moment: FloatArray
    """[K, S] mean of |estimate|^2 up to the checkpoint that reached it."""


def cost_to_reach(
    value: Callable[[FloatArray], FloatArray], progress: Iterable[Checkpoint], target: float
) -> Reached:
    """Find the cost at which each run's average first has a value of at most `target`.

    Args:
        value: [r, d] points to [r] values of f.
        progress: As `descend` gives it; read until all runs have arrived.
        target: min f + epsilon.
    """
    cost: FloatArray = np.zeros((0, 0))
    moment = before = spent = cost
    for point in progress:
        if not cost.size:
            cost, moment = (np.full(point.spent.shape, math.inf) for _ in range(2))
            before, spent = np.full(point.spent.shape, math.inf), np.zeros(point.spent.shape)
        running = np.isinf(cost)
        now = np.where(running, math.nan, -math.inf)
        now[running] = value(point.average[running])
        arrived = running & (now <= target)
        # At the first checkpoint there is nothing to interpolate from.
        known = arrived & np.isfinite(before)
        share = np.ones_like(now)
        share[known] = (before[known] - target) / (before[known] - now[known])
        cost[arrived] = (spent + share * (point.spent - spent))[arrived]
        moment[arrived] = point.moment[arrived]
        before, spent = now, point.spent
        if np.isfinite(cost).all():
            break
    return Reached(cost, moment)


def _draw_all(samplers: Sequence[Sampler], uniforms: FloatArray) -> tuple[IntArray, FloatArray]:
    """Turn [T, S, width] uniforms into [T, K S, m] indices and weights, padded with weight 0."""
    drawn = [sampler.draw(uniforms[..., : sampler.num_uniforms]) for sampler in samplers]
    most = max(indices.shape[-1] for indices, _ in drawn)
    room = [((0, 0), (0, 0), (0, most - indices.shape[-1])) for indices, _ in drawn]
    return (
        np.concatenate([np.pad(i, r) for (i, _), r in zip(drawn, room, strict=True)], axis=1),
        np.concatenate([np.pad(w, r) for (_, w), r in zip(drawn, room, strict=True)], axis=1),
    )
