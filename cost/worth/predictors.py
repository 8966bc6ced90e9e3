"""Predictions for prompts from cheap features, so that prompts never visited have an estimate.

    y_i ~ mean + x_i . w,    x_i = (1, tokens, log tokens, features, one-hot source), standardised
    w = (sum x x^T + ridge I)^-1 sum x (y - mean)

Online ridge regression with forgetting (textbook; its use here is ours). Features are those of the
pool, if it has any (`PromptPool.features`). Only the sufficient statistics are kept, so an update
costs O(F^2) and a prediction for all prompts O(N F); the one-hot columns are never stored.
Predictions are clipped to the range of the values seen.

A predictor is a plug inside other plugs: `initial_state(prompts, initial)`,
`update(state, prompts, indices, values)` and `predict(state, prompts)`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cost.prompts import PromptPool
from cost.ranges import positive, require_ranges
from cost.types import FloatArray, IntArray

MAX_SOURCE_COLUMNS = 32
NUM_SHARED_COLUMNS = 3
CHUNK = 65_536
"""Prompts whose features are widened to 32 bits at a time."""


class Predictor(Protocol):
    """Predicts one number per prompt from what was seen at other prompts."""

    def initial_state(self, prompts: PromptPool, initial: float) -> Any:
        """Return the state that predicts `initial` everywhere."""

    def update(self, state: Any, prompts: PromptPool, indices: IntArray, values: FloatArray) -> Any:
        """Take in values [V] seen at the prompts `indices` [V], oldest first."""

    def predict(self, state: Any, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 predictions, a new array."""


@dataclass(frozen=True, slots=True)
class PoolMeanState:
    """Discounted mean over all visits."""

    initial: float
    total: float
    count: float


@dataclass(frozen=True, slots=True)
class PoolMeanPredictor:
    """Predict the recent mean over all prompts visited, the same for every prompt."""

    decay: float = 0.99
    """What a visit counts after one more visit, in (0, 1]."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("predictor.", self, {"decay": positive(1)})

    def initial_state(self, prompts: PromptPool, initial: float) -> PoolMeanState:
        """Return the state that predicts `initial` everywhere."""
        return PoolMeanState(initial=initial, total=0.0, count=0.0)

    def update(
        self, state: PoolMeanState, prompts: PromptPool, indices: IntArray, values: FloatArray
    ) -> PoolMeanState:
        """Take in values [V] seen at the prompts `indices` [V], oldest first."""
        past, age_V = _ages(self.decay, len(values))
        return PoolMeanState(
            initial=state.initial,
            total=past * state.total + float(age_V @ values),
            count=past * state.count + float(age_V.sum()),
        )

    def predict(self, state: PoolMeanState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 predictions, all equal."""
        mean = state.total / state.count if state.count > 0 else state.initial
        return np.full(prompts.num_prompts, mean)


@dataclass(frozen=True, slots=True)
class RidgeState:
    """Sufficient statistics of the regression; F = 3 + features + number of source columns."""

    initial: float
    centre: FloatArray
    """[2] mean of tokens and of log tokens over the prompts at the start of the run."""
    scale: FloatArray
    """[2] standard deviations of the same, 1 where they are zero."""
    gram: FloatArray
    """[F, F] discounted sum of x x^T."""
    moment: FloatArray
    """[F] discounted sum of x y."""
    low: float
    """The smallest value seen; infinity before the first."""
    high: float
    """The largest value seen; minus infinity before the first."""


@dataclass(frozen=True, slots=True)
class RidgePredictor:
    """Predict from prompt length and source by ridge regression on all visits."""

    ridge: float = 10.0
    """Pull of the weights to zero, that is of predictions to the mean, in visits; positive."""
    decay: float = 0.998
    """What a visit counts after one more visit, in (0, 1]."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("predictor.", self, {"ridge": positive(), "decay": positive(1)})

    def initial_state(self, prompts: PromptPool, initial: float) -> RidgeState:
        """Return the state that predicts `initial` everywhere."""
        tokens = prompts.prompt_tokens.astype(np.float64)
        columns = np.stack([tokens, np.log(tokens)])
        deviation = columns.std(axis=1)
        size = _first_source(prompts) + min(len(prompts.source_names), MAX_SOURCE_COLUMNS)
        return RidgeState(
            initial=initial,
            centre=columns.mean(axis=1),
            scale=np.where(deviation > 1e-9, deviation, 1.0),
            gram=np.zeros((size, size)),
            moment=np.zeros(size),
            low=np.inf,
            high=-np.inf,
        )

    def update(
        self, state: RidgeState, prompts: PromptPool, indices: IntArray, values: FloatArray
    ) -> RidgeState:
        """Take in values [V] seen at the prompts `indices` [V], oldest first."""
        if len(values) == 0:
            return state
        # Sources beyond the columns, the rare ones, share the intercept.
        num_columns = len(state.moment)
        x_VF = np.zeros((len(values), num_columns))
        x_VF[:, 0] = 1.0
        x_VF[:, 1:3] = _shared_features(state, prompts.prompt_tokens[indices])
        first_source = _first_source(prompts)
        if prompts.features is not None:
            x_VF[:, NUM_SHARED_COLUMNS:first_source] = prompts.features[indices]
        column = first_source + prompts.source_codes[indices]
        known = column < num_columns
        x_VF[np.flatnonzero(known), column[known]] = 1.0
        past, age_V = _ages(self.decay, len(values))
        weighted_VF = x_VF * age_V[:, None]
        return RidgeState(
            initial=state.initial,
            centre=state.centre,
            scale=state.scale,
            gram=past * state.gram + weighted_VF.T @ x_VF,
            moment=past * state.moment + weighted_VF.T @ values,
            low=min(state.low, float(values.min())),
            high=max(state.high, float(values.max())),
        )

    def predict(self, state: RidgeState, prompts: PromptPool) -> FloatArray:
        """Return [N] float64 predictions, within the range of the values seen."""
        count = state.gram[0, 0]
        if count == 0:
            return np.full(prompts.num_prompts, state.initial)
        mean = state.moment[0] / count
        weights = np.linalg.solve(
            state.gram + self.ridge * np.eye(len(state.moment)),
            state.moment - mean * state.gram[0],
        )
        of_tokens, of_log = weights[1:3] / state.scale
        offset = mean + weights[0] - of_tokens * state.centre[0] - of_log * state.centre[1]
        of_source = np.full(len(prompts.source_names), offset)
        first_source = _first_source(prompts)
        known = min(len(of_source), len(weights) - first_source)
        of_source[:known] += weights[first_source : first_source + known]
        # In place, for no more than three arrays of N numbers at a time.
        prediction: FloatArray = of_source[prompts.source_codes]
        tokens = prompts.prompt_tokens.astype(np.float64)
        prediction += of_tokens * tokens
        np.log(tokens, out=tokens)
        tokens *= of_log
        prediction += tokens
        if prompts.features is not None:
            of_features = weights[NUM_SHARED_COLUMNS:first_source].astype(np.float32)
            for start in range(0, len(prediction), CHUNK):
                part = slice(start, start + CHUNK)
                prediction[part] += prompts.features[part].astype(np.float32) @ of_features
        return np.clip(prediction, state.low, state.high, out=prediction)


def _shared_features(state: RidgeState, prompt_tokens: IntArray) -> FloatArray:
    """Return [..., 2] standardised tokens and log tokens."""
    tokens = prompt_tokens.astype(np.float64)
    return (np.stack([tokens, np.log(tokens)], axis=-1) - state.centre) / state.scale


def _first_source(prompts: PromptPool) -> int:
    """Return the first column of sources, behind the shared ones and the features."""
    return NUM_SHARED_COLUMNS + (0 if prompts.features is None else prompts.features.shape[1])


def _ages(decay: float, count: int) -> tuple[float, FloatArray]:
    """Return what everything earlier counts after V values, and what each of them does, [V]."""
    return decay**count, decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
