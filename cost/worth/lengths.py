"""Plug `length`: expected tokens of a response to each prompt, from past visits.

Contract: `estimate(prompts, state=...) -> [N] float64`, positive, at most about `max_tokens`.

The optimal draw probability under random costs divides by sqrt(E cost), so the mean of the length
is estimated, not the mean of 1 / sqrt(length) (ours). A truncated response counts with the cap as
its length, because that is what it cost. Its censoring is noted in the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cost.prompts import PromptPool, Visit, visit_means
from cost.ranges import amount, positive, require_ranges
from cost.types import FloatArray
from cost.worth.predictors import PoolMeanPredictor, RidgePredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState


@runtime_checkable
class LengthEstimator(Protocol):
    """Estimates how long the responses to each prompt will be."""

    def estimate(self, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 expected tokens of one response, at least 1."""


@dataclass(frozen=True, slots=True)
class PoolShrunkLength:
    """Moving average of a prompt's own mean lengths, shrunk to a prediction from its features."""

    prior_visits: float = 0.5
    """Visits at which the prompt's own mean and the prediction count the same. Small, because mean
    lengths of 8 responses repeat well (r = .96 between visits, measured)."""
    decay: float = 0.7
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior: Any = field(default_factory=RidgePredictor)
    """The `cost.worth.predictors.Predictor` for prompts with few or no visits (hydra refuses the
    protocol)."""
    initial_tokens: float | None = None
    """Length assumed before the first visit of any prompt; None for `max_tokens`."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"prior_visits": amount(), "decay": amount(1), "initial_tokens": positive()}
        require_ranges("length.", self, ranges)

    def initial_state(self, prompts: PromptPool) -> ShrunkMeanState:
        """Return the state that knows no visit."""
        return self._mean.initial_state(prompts, _initial_tokens(self.initial_tokens, prompts))

    def update(
        self, state: ShrunkMeanState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> ShrunkMeanState:
        """Take in visits, oldest first."""
        readings = Readings(
            indices=np.array([visit.report.prompt_index for visit in visits], dtype=np.int64),
            values=_mean_lengths(visits),
            masses=np.ones(len(visits)),
            weights=np.array([visit.weight for visit in visits], dtype=np.float64),
        )
        return self._mean.update(state, prompts, readings)

    def estimate(self, prompts: PromptPool, state: ShrunkMeanState) -> FloatArray:
        """Return [N] float64 expected tokens of one response, at least 1."""
        lengths = self._mean.estimate(state, prompts)
        return np.maximum(lengths, 1.0, out=lengths)

    @property
    def _mean(self) -> ShrunkMean:
        return ShrunkMean(
            prior=self.prior, prior_count=self.prior_visits, decay=self.decay, follow_drift=True
        )


@dataclass(frozen=True, slots=True)
class PoolMeanLength:
    """The recent mean over all prompts, for every prompt: costs differ by the prompts alone."""

    decay: float = 0.99
    """What a visit counts after one more visit of any prompt, in (0, 1]."""
    initial_tokens: float | None = None
    """Length assumed before the first visit; None for `max_tokens`."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("length.", self, {"decay": positive(1), "initial_tokens": positive()})

    def initial_state(self, prompts: PromptPool) -> Any:
        """Return the state that knows no visit."""
        initial = _initial_tokens(self.initial_tokens, prompts)
        return PoolMeanPredictor(self.decay).initial_state(prompts, initial)

    def update(self, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
        """Take in visits, oldest first."""
        indices = np.array([visit.report.prompt_index for visit in visits], dtype=np.int64)
        predictor = PoolMeanPredictor(self.decay)
        return predictor.update(state, prompts, indices, _mean_lengths(visits))

    def estimate(self, prompts: PromptPool, state: Any) -> FloatArray:
        """Return [N] float64 expected tokens of one response, all equal, at least 1."""
        return np.maximum(PoolMeanPredictor(self.decay).predict(state, prompts), 1.0)


def _mean_lengths(visits: Sequence[Visit]) -> FloatArray:
    """Return [V] mean response length of each visit."""
    if not visits:
        return np.zeros(0)
    return visit_means(visits, np.concatenate([visit.report.lengths for visit in visits]))[1]


def _initial_tokens(initial_tokens: float | None, prompts: PromptPool) -> float:
    return float(prompts.max_tokens if initial_tokens is None else initial_tokens)
