"""Pass rate of each prompt: a forgetful Beta estimate, shrunk to a prediction from its features.

    a_i = (discounted successes + k prior_i) / (discounted trials + k)        (ours)

A success is a reward of 1; rewards in between count partly, rewards outside [0, 1] are clipped. One
visit of 8 responses repeats with a correlation of only .6 (measured), hence k = 8: after
one visit the prompt's own rate counts half. A prompt never visited, when nothing is known, has .5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.predictors import RidgePredictor
from cost.prompts import PromptPool, Visit
from cost.shrinkage import Readings, ShrunkMean, ShrunkMeanState
from cost.types import FloatArray


@dataclass(frozen=True, slots=True)
class PassRates:
    """Estimator of pass rates; the scheduler owns one whatever the utility is."""

    decay: float
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior_responses: float
    """k of the formula, in responses."""

    def initial_state(self, prompts: PromptPool) -> ShrunkMeanState:
        """Return the state that knows no visit."""
        return self._mean.initial_state(prompts, 0.5)

    def update(
        self, state: ShrunkMeanState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> ShrunkMeanState:
        """Take in visits, oldest first; responses without a usable reward are left out."""
        scored = [visit for visit in visits if visit.usable.any()]
        rates = [np.clip(visit.report.rewards[visit.usable], 0, 1).mean() for visit in scored]
        readings = Readings(
            indices=np.array([visit.report.prompt_index for visit in scored], dtype=np.int64),
            values=np.array(rates, dtype=np.float64),
            masses=np.array([visit.usable.sum() for visit in scored], dtype=np.float64),
            weights=np.array([visit.weight for visit in scored], dtype=np.float64),
        )
        return self._mean.update(state, prompts, readings)

    def estimate(self, state: ShrunkMeanState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 in [0, 1]."""
        return np.clip(self._mean.estimate(state, prompts), 0.0, 1.0)

    @property
    def _mean(self) -> ShrunkMean:
        return ShrunkMean(
            prior=RidgePredictor(),
            prior_count=self.prior_responses,
            decay=self.decay,
            follow_drift=False,
        )
