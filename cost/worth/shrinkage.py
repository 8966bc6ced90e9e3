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
from itertools import accumulate
from typing import Any

import numpy as np

from cost.prompts import PromptPool, by_occurrence
from cost.types import FloatArray, IntArray
from cost.worth.predictors import Predictor


@dataclass(frozen=True, slots=True)
class Readings:
    """V values seen at prompts, oldest first."""

    indices: IntArray
    """[V] index of the prompt at which each value was seen."""
    values: FloatArray
    """[V] the values."""
    masses: FloatArray
    """[V] how many units of `prior_count` a value counts for: visits, or responses."""
    weights: FloatArray
    """[V] design weight of the visit, for the pool mean."""


@dataclass(frozen=True, slots=True)
class ShrunkMeanState:
    """What is kept of each prompt, 24 bytes, and the state of the prior."""

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
    """The pool mean at the end of the warm-up; NaN before that."""
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
        masses, totals, references = (
            column.copy() for column in (state.masses, state.totals, state.references)
        )
        pool_totals, pool_weights = self._pool(state, readings)
        pool_means = pool_totals[1:] / pool_weights[1:]
        warm_reference = state.warm_reference
        count = state.num_readings + 1 + np.arange(len(pool_means))
        in_warm_up = np.full(len(pool_means), bool(np.isnan(warm_reference)))
        ends = np.flatnonzero(in_warm_up & (count * (1 - self.pool_decay) >= 1 - 1e-9))
        if len(ends):
            # The reading that ends the warm-up still belongs to it.
            in_warm_up[ends[0] + 1 :] = False
            warm_reference = float(pool_means[ends[0]])
        for visit in by_occurrence(readings.indices):
            prompt, pool_mean, warm = readings.indices[visit], pool_means[visit], in_warm_up[visit]
            drift = np.ones(len(visit))
            if self.follow_drift:
                old = references[prompt]
                old = np.where(np.isnan(old), warm_reference, old)
                np.divide(pool_mean, old, out=drift, where=~warm & (old > 0))
            mass = readings.masses[visit]
            totals[prompt] = self.decay * totals[prompt] * drift + mass * readings.values[visit]
            masses[prompt] = self.decay * masses[prompt] + mass
            references[prompt] = np.where(warm, np.nan, pool_mean)
        return ShrunkMeanState(
            masses=masses,
            totals=totals,
            references=references,
            pool_total=float(pool_totals[-1]),
            pool_weight=float(pool_weights[-1]),
            num_readings=state.num_readings + len(pool_means),
            warm_reference=warm_reference,
            prior=self.prior.update(state.prior, prompts, readings.indices, readings.values),
        )

    def estimate(self, state: ShrunkMeanState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 estimates; the prediction alone where a prompt was never visited."""
        masses, totals, references = state.masses, state.totals, state.references
        estimates = self.prior.predict(state.prior, prompts)
        own = self.prior_count * estimates
        if self.follow_drift and not np.isnan(state.warm_reference) and state.pool_weight > 0:
            reference = np.where(np.isnan(references), state.warm_reference, references)
            drift = np.ones(len(totals))
            np.divide(
                state.pool_total / state.pool_weight, reference, out=drift, where=reference > 0
            )
            drift *= totals
            own += drift
        else:
            own += totals
        weight = masses + self.prior_count
        # A mass of zero (never visited, no shrinkage) leaves the prediction.
        return np.divide(own, weight, out=estimates, where=weight > 0)

    def _pool(self, state: ShrunkMeanState, readings: Readings) -> tuple[FloatArray, FloatArray]:
        """Return [V + 1] totals and [V + 1] weights of the pool, before and after each reading."""
        weighted = (readings.weights * readings.values).tolist()
        totals, weights = [
            list(accumulate(added, lambda sum_, new: self.pool_decay * sum_ + new, initial=start))
            for added, start in (
                (weighted, state.pool_total),
                (readings.weights.tolist(), state.pool_weight),
            )
        ]
        return np.array(totals), np.array(weights)
