"""How gradient norms really depend on advantage, length and surprise: the proxy's exponents.

    |g| ~ constant * |A|^b L^d S^s
    fitted as    log |score| = c + (b - 1) log|A| + d log L + s log S

The score is the gradient of a response's summed log-probability (`learner.gradient_norms`), and
on-policy a response's gradient is |A| |score| times its aggregation factor. The factor is known and
the proxy multiplies with it, so it is no part of d: a proxy |A|^b L^d without factors needs d - 1
for sequence means.

The factor |A| of the gradient is an identity, not a finding: were log(|A| |score|) regressed, b
would have the same value and error, and R^2 would look better for nothing. What is regressed is
therefore log |score|, of which R^2 speaks, and b - 1 says by how much scores differ between
responses of large and small advantage that agree in length and surprise.

All of this is ours: Mohri et al. (2026, 2604.28020) take |A| itself as the proxy. Errors are those
of ordinary least squares. Responses of a group share a prompt and are less than independent, so the
true errors are somewhat larger.
"""

from dataclasses import dataclass, field

import numpy as np

from cost.types import FloatArray, IntArray

METRICS = {
    "cost/calibration_advantage_exponent": "exponent of |A| in the gradient norm",
    "cost/calibration_advantage_exponent_error": "its standard error",
    "cost/calibration_length_exponent": "exponent of the length at given surprise, factor left out",
    "cost/calibration_length_exponent_error": "its standard error",
    "cost/calibration_surprise_exponent": "exponent of the surprise at given length",
    "cost/calibration_surprise_exponent_error": "its standard error",
    "cost/calibration_r_squared": "share of the variance of log score norms that is explained",
    "cost/calibration_responses": "responses behind it; older calibrations count less",
}
"""Every metric of a calibration with its meaning."""

NUM_EXPONENTS = 3
PRIOR_EXPONENTS = (1.0, 0.0, 0.5)
"""Advantage, length, surprise: those of `cost.thinning.proxies.SurpriseProxy`."""
_OFFSET = np.array([1.0, 0.0, 0.0])
"""What turns the exponents of the score into those of the gradient, by addition."""
_SMALLEST_RESIDUAL = 1e-2
"""Least residual deviation that is believed, in natural logarithms."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Exponents of a response's gradient norm, aggregation factor left out; all values finite."""

    advantage_exponent: float
    length_exponent: float
    surprise_exponent: float
    advantage_exponent_error: float
    """Standard error of the exponent, like the next two."""
    length_exponent_error: float
    surprise_exponent_error: float
    r_squared: float
    """R^2 of the log score norms, at most 1; negative where the exponents are worse than none."""
    num_responses: float
    """Number of responses that were fitted, those of older calibrations discounted."""

    def metrics(self) -> dict[str, float]:
        """Return the values under the keys of `METRICS`."""
        return {
            "cost/calibration_advantage_exponent": self.advantage_exponent,
            "cost/calibration_advantage_exponent_error": self.advantage_exponent_error,
            "cost/calibration_length_exponent": self.length_exponent,
            "cost/calibration_length_exponent_error": self.length_exponent_error,
            "cost/calibration_surprise_exponent": self.surprise_exponent,
            "cost/calibration_surprise_exponent_error": self.surprise_exponent_error,
            "cost/calibration_r_squared": self.r_squared,
            "cost/calibration_responses": self.num_responses,
        }


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """Sums over calibrations, each centred by itself; without arguments, those of none.

    Centring gives each calibration a constant of its own: the size of gradients drifts with the
    policy, while the proxy needs ratios only.
    """

    gram: FloatArray = field(default_factory=lambda: np.zeros((NUM_EXPONENTS, NUM_EXPONENTS)))
    """[3, 3] products of the centred log|A|, log L, log S."""
    moment: FloatArray = field(default_factory=lambda: np.zeros(NUM_EXPONENTS))
    """[3] their products with the centred log score norm."""
    total: float = 0.0
    """Sum of squares of the centred log score norm."""
    num_responses: float = 0.0
    num_calibrations: float = 0.0
    """Number of calibrations, each of which has a constant of its own."""


def updated(
    state: CalibrationState,
    norms: FloatArray,
    advantages: FloatArray,
    lengths: IntArray,
    surprise: FloatArray,
    factors: FloatArray,
    *,
    decay: float = 0.8,
) -> CalibrationState:
    """Take in one calibration's M responses; the given state is left as it is.

    Responses count where advantage, factor, length, surprise and norm are all non-zero: the others
    have no logarithm, and no part in the gradient or none that a proxy of this form could guess.
    Without any such response the state stays the same, undiscounted.

    Args:
        state: The sums over the earlier calibrations.
        norms: [M] norms of the scores, not negative; from one layer, always the same.
        advantages: [M] advantages from the full groups.
        lengths: [M] response tokens.
        surprise: [M] sum over the response's tokens of (1 - probability)^2.
        factors: [M] aggregation factors.
        decay: What a calibration counts after one more, in [0, 1].

    Raises:
        ValueError: If the arrays' shapes differ, a value is not finite, or decay is out of range.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"calibration.decay must lie in [0, 1], got {decay!r}")
    columns = {"norms": norms, "advantages": np.abs(advantages), "lengths": lengths,
               "surprise": surprise, "factors": np.abs(factors)}  # fmt: skip
    for name, column in columns.items():
        if np.shape(column) != np.shape(norms) or np.ndim(column) != 1:
            raise ValueError(
                f"{name} must have one entry per response, as norms of shape {np.shape(norms)}, "
                f"got shape {np.shape(column)}"
            )
        if not (np.isfinite(column) & (np.asarray(column) >= 0)).all():
            raise ValueError(f"{name} must be finite and not negative, got {column!r}")
    stacked = np.array(list(columns.values()), dtype=np.float64)
    logs = np.log(stacked[:, (stacked > 0).all(axis=0)])
    num_responses = logs.shape[1]
    if num_responses == 0:
        return state
    logs -= logs.mean(axis=1, keepdims=True)
    target, regressors = logs[0], logs[1:4]
    return CalibrationState(
        gram=decay * state.gram + regressors @ regressors.T,
        moment=decay * state.moment + regressors @ target,
        total=decay * state.total + float(target @ target),
        num_responses=decay * state.num_responses + num_responses,
        num_calibrations=decay * state.num_calibrations + 1,
    )


def exponents(state: CalibrationState, *, prior_error: float = 0.25) -> Calibration:
    """Fit all calibrations, shrunk to `PRIOR_EXPONENTS`.

    Ridge regression, read as the mean of exponents that are normal about the prior beforehand.
    Where the data say nothing, as on a direction in which the regressors do not vary, or before the
    first calibration, the prior and its error remain. The residual variance that weighs data
    against prior is the one under the prior's exponents: it is too large when the prior is wrong,
    which makes errors larger and the move away from the prior slower.

    Args:
        state: What `updated` made.
        prior_error: Standard deviation of each exponent about the prior, positive.

    Raises:
        ValueError: If the prior's error is not positive.
    """
    if not prior_error > 0:
        raise ValueError(f"calibration.prior_error must be positive, got {prior_error!r}")
    prior = np.array(PRIOR_EXPONENTS) - _OFFSET
    freedom = state.num_responses - state.num_calibrations
    variance = _residual_square(state, prior) / freedom if freedom > 0 else 0.0
    variance = max(variance, _SMALLEST_RESIDUAL**2)
    precision = state.gram / variance + np.eye(NUM_EXPONENTS) / prior_error**2
    covariance: FloatArray = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    slopes = prior + covariance @ (state.moment - state.gram @ prior) / variance
    return _calibration(state, slopes, covariance)


def _residual_square(state: CalibrationState, slopes: FloatArray) -> float:
    """Return the sum of squared residuals under some exponents of the score [3]."""
    square = state.total - 2 * slopes @ state.moment + slopes @ state.gram @ slopes
    return max(float(square), 0.0)


def _calibration(
    state: CalibrationState, slopes: FloatArray, covariance: FloatArray
) -> Calibration:
    """Name the exponents of the score [3] and their covariance [3, 3]."""
    advantage, length, surprise = (slopes + _OFFSET).tolist()
    errors = np.sqrt(np.diag(covariance)).tolist()
    explained = 1 - _residual_square(state, slopes) / state.total if state.total > 0 else 0.0
    return Calibration(
        advantage_exponent=advantage,
        length_exponent=length,
        surprise_exponent=surprise,
        advantage_exponent_error=errors[0],
        length_exponent_error=errors[1],
        surprise_exponent_error=errors[2],
        r_squared=explained,
        num_responses=state.num_responses,
    )
