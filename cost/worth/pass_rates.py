"""Pass rate of each prompt: a forgetful Beta estimate, shrunk to a prediction from its features.

    a_i = (discounted successes + k prior_i) / (discounted trials + k)        (ours)

A success is a reward of 1; rewards in between count partly, rewards outside [0, 1] are clipped. One
visit of 8 responses repeats with a correlation of only .6 (measured), hence k = 8: after
one visit the prompt's own rate counts half. A prompt never visited, when nothing is known, has .5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.prompts import PromptPool, Visit, visit_means
from cost.types import FloatArray, IntArray
from cost.worth.predictors import RidgePredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState


@dataclass(frozen=True, slots=True)
class PassRates:
    """Estimator of pass rates; the scheduler owns one whatever the utility is."""

    decay: float
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior_responses: float
    """k of the formula: how many responses the prediction counts for."""

    def initial_state(self, prompts: PromptPool) -> ShrunkMeanState:
        """Return the state that knows no visit."""
        return self._mean.initial_state(prompts, 0.5)

    def update(
        self, state: ShrunkMeanState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> ShrunkMeanState:
        """Take in visits, oldest first; responses without a usable reward are left out."""
        if not visits:
            return state
        counts, rates = pass_counts(visits)
        scored = counts > 0
        readings = Readings(
            indices=np.array([visit.report.prompt_index for visit in visits])[scored],
            values=rates[scored],
            masses=counts[scored].astype(np.float64),
            weights=np.array([visit.weight for visit in visits], dtype=np.float64)[scored],
        )
        return self._mean.update(state, prompts, readings)

    def estimate(self, state: ShrunkMeanState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 expected pass rate of each prompt, in [0, 1]."""
        rates = self._mean.estimate(state, prompts)
        return np.clip(rates, 0.0, 1.0, out=rates)

    @property
    def _mean(self) -> ShrunkMean:
        return ShrunkMean(
            prior=RidgePredictor(),
            prior_count=self.prior_responses,
            decay=self.decay,
            follow_drift=False,
        )


def pass_counts(visits: Sequence[Visit]) -> tuple[IntArray, FloatArray]:
    """Return [V] responses with a usable reward, and [V] the share of them that passed."""
    return visit_means(
        visits,
        np.clip(np.concatenate([visit.report.rewards for visit in visits]), 0, 1),
        np.concatenate([visit.usable for visit in visits]),
    )
