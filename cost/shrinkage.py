"""Running means per prompt, shrunk to a prediction: the estimator behind every prompt statistic.

    estimate_i = (n_i drift_i mean_i + k prior_i) / (n_i + k)          (ours)

n_i is the discounted mass of prompt i's visits and mean_i their discounted mean, so this is an
exponential moving average without start-up bias. drift_i = pool mean now / pool mean at i's last
visit carries an old observation along with the policy. Prompts are visited with probability
p_i, so the pool mean weighs a visit by 1 / (N p_i); else it would drift with the allocator.

The pool mean after a handful of visits is noise and must not serve as a reference. Visits of the
warm-up, the first 1 / (1 - pool_decay), share one reference: the pool mean at the warm-up's end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.predictors import Predictor
from cost.prompts import PromptPool
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Readings:
    """V values seen at prompts, oldest first."""

    indices: IntArray
    """[V] prompt of each value."""
    values: FloatArray
    """[V]"""
    masses: FloatArray
    """[V] how many units of `prior_count` a value counts for: visits, or responses."""
    weights: FloatArray
    """[V] design weight of the visit, for the pool mean."""


@dataclass(frozen=True, slots=True)
class ShrunkMeanState:
    """24 bytes a prompt, and the prior's own state."""

    masses: FloatArray
    """[N] discounted mass n_i."""
    totals: FloatArray
    """[N] discounted mass times value."""
    references: FloatArray
    """[N] pool mean at the last visit; NaN for warm-up visits."""
    pool_total: float
    pool_weight: float
    num_readings: int
    warm_reference: float
    """Pool mean at the end of the warm-up; NaN before."""
    prior: Any


@dataclass(frozen=True, slots=True)
class ShrunkMean:
    """Settings of the estimator; see the module for the formula."""

    prior: Predictor
    prior_count: float
    """k: mass at which a prompt's own mean and the prediction count the same, not negative."""
    decay: float
    """What a prompt's visit counts after one more visit of that prompt, in [0, 1]."""
    follow_drift: bool
    """Whether to apply the drift factor; for positive quantities without an upper bound."""
    pool_decay: float = 0.99
    """What a visit counts in the pool mean after one more visit of any prompt, in [0, 1)."""

    def initial_state(self, prompts: PromptPool, initial: float) -> ShrunkMeanState:
        """Return the state that estimates `initial` everywhere."""
        size = prompts.num_prompts
        return ShrunkMeanState(
            masses=np.zeros(size),
            totals=np.zeros(size),
            references=np.full(size, np.nan),
            pool_total=0.0,
            pool_weight=0.0,
            num_readings=0,
            warm_reference=np.nan,
            prior=self.prior.initial_state(prompts, initial),
        )

    def update(
        self, state: ShrunkMeanState, prompts: PromptPool, readings: Readings
    ) -> ShrunkMeanState:
        """Take in readings; one call with all or one call for each give the same state."""
        masses, totals, references = _grown(state, prompts.num_prompts)
        pool_total, pool_weight = state.pool_total, state.pool_weight
        num_readings, warm_reference = state.num_readings, state.warm_reference
        for index, value, mass, weight in zip(
            readings.indices.tolist(),
            readings.values.tolist(),
            readings.masses.tolist(),
            readings.weights.tolist(),
            strict=True,
        ):
            in_warm_up = np.isnan(warm_reference)
            pool_total = self.pool_decay * pool_total + weight * value
            pool_weight = self.pool_decay * pool_weight + weight
            pool_mean = pool_total / pool_weight
            num_readings += 1
            if in_warm_up and num_readings * (1 - self.pool_decay) >= 1 - 1e-9:
                warm_reference = pool_mean
            drift = 1.0
            if self.follow_drift and not in_warm_up:
                old = references[index] if not np.isnan(references[index]) else warm_reference
                drift = pool_mean / old if old > 0 else 1.0
            totals[index] = self.decay * totals[index] * drift + mass * value
            masses[index] = self.decay * masses[index] + mass
            references[index] = np.nan if in_warm_up else pool_mean
        return ShrunkMeanState(
            masses=masses,
            totals=totals,
            references=references,
            pool_total=pool_total,
            pool_weight=pool_weight,
            num_readings=num_readings,
            warm_reference=warm_reference,
            prior=self.prior.update(state.prior, prompts, readings.indices, readings.values),
        )

    def estimate(self, state: ShrunkMeanState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 estimates; the prediction alone where a prompt was never visited."""
        masses, totals, references = _grown(state, prompts.num_prompts)
        prior = self.prior.predict(state.prior, prompts)
        if self.follow_drift and not np.isnan(state.warm_reference) and state.pool_weight > 0:
            pool_mean = state.pool_total / state.pool_weight
            reference = np.where(np.isnan(references), state.warm_reference, references)
            totals *= np.divide(pool_mean, reference, out=np.ones_like(totals), where=reference > 0)
        weight = masses + self.prior_count
        # A mass of zero (never visited, no shrinkage) leaves the prediction.
        return np.divide(
            totals + self.prior_count * prior, weight, out=prior.copy(), where=weight > 0
        )


def _grown(state: ShrunkMeanState, size: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Copy the per-prompt arrays, with room for prompts added since."""
    missing = size - len(state.masses)
    return (
        np.pad(state.masses, (0, missing)),
        np.pad(state.totals, (0, missing)),
        np.pad(state.references, (0, missing), constant_values=np.nan),
    )
