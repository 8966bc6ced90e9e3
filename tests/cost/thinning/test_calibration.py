import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.state import from_plain, to_plain
from cost.thinning.calibration import (
    METRICS,
    PRIOR_EXPONENTS,
    CalibrationState,
    exponents,
    updated,
)

TRUTH = (1.3, -0.2, 0.4)


def responses(seed, num=200, truth=TRUTH, noise=0.15, constant=2.0):
    """Norms, advantages, lengths, surprise, factors with known exponents."""
    rng = np.random.default_rng(seed)
    advantages = rng.choice([-1, 1], num) * rng.lognormal(0, 0.5, num)
    lengths = np.maximum(np.rint(rng.lognormal(4, 0.6, num)), 1).astype(int)
    surprise = 0.2 * lengths * rng.lognormal(0, 0.5, num)
    log_norms = (
        constant
        + (truth[0] - 1) * np.log(np.abs(advantages))
        + truth[1] * np.log(lengths)
        + truth[2] * np.log(surprise)
        + rng.normal(0, noise, num)
    )
    return np.exp(log_norms), advantages, lengths, surprise, 1.0 / lengths


def values(calibration):
    return np.array(astuple(calibration)[:3])


def errors(calibration):
    return np.array(astuple(calibration)[3:6])


def fitted(*given):
    """Fit one calibration's responses alone, hardly shrunk: about least squares."""
    return exponents(updated(CalibrationState(), *given), prior_error=1e4)


def test_without_noise_the_fit_is_exact():
    calibration = fitted(*responses(0, noise=0.0))
    np.testing.assert_allclose(values(calibration), TRUTH, atol=1e-6)
    assert calibration.r_squared == pytest.approx(1)
    assert calibration.num_responses == 200


def test_is_least_squares_with_a_constant():
    norms, advantages, lengths, surprise, factors = responses(1, num=40)
    logs = [np.log(np.abs(advantages)), np.log(lengths), np.log(surprise)]
    design = np.column_stack([np.ones(40), *logs])
    # The gradient is |A| times the score: same exponents.
    target = np.log(np.abs(advantages) * norms)
    slopes, [square], *_ = np.linalg.lstsq(design, target)
    calibration = fitted(norms, advantages, lengths, surprise, factors)
    np.testing.assert_allclose(values(calibration), slopes[1:], rtol=1e-5)
    assert calibration.r_squared == pytest.approx(1 - square / (40 * np.log(norms).var()))


def test_neither_unit_nor_sign_nor_factor_matters():
    norms, advantages, lengths, surprise, factors = responses(2)
    plain = fitted(norms, advantages, lengths, surprise, factors)
    other = fitted(7 * norms, -3 * advantages, lengths, surprise, np.full(200, 0.01))
    np.testing.assert_allclose(astuple(other), astuple(plain), rtol=1e-6)


def test_responses_without_a_logarithm_do_not_count():
    given = responses(3, num=50)
    alone = fitted(*given)
    more = [np.concatenate([column, [1, 1, 1, 1, 1]]).astype(column.dtype) for column in given]
    for column, place in zip(more, range(50, 55), strict=True):
        column[place] = 0
    assert fitted(*more) == alone


@pytest.mark.parametrize("column", [1, 2, 3])
def test_a_regressor_that_does_not_vary_tells_nothing(column):
    given = list(responses(5))
    given[column] = np.ones_like(given[column])
    shrunk = exponents(updated(CalibrationState(), *given))
    assert values(shrunk)[column - 1] == pytest.approx(PRIOR_EXPONENTS[column - 1])
    assert errors(shrunk)[column - 1] == pytest.approx(0.25)
    assert errors(shrunk).min() < 0.05


def test_collinear_regressors_keep_the_prior_in_the_direction_that_is_open():
    norms, advantages, lengths, _, factors = responses(6)
    surprise = 0.3 * lengths
    state = updated(CalibrationState(), norms, advantages, lengths, surprise, factors)
    shrunk = exponents(state)
    # Length and surprise move alike, so their difference stays and their sum follows the data.
    assert shrunk.surprise_exponent - shrunk.length_exponent == pytest.approx(0.5)
    only_length = np.polyfit(np.log(lengths), np.log(norms), 1)[0]
    assert shrunk.surprise_exponent + shrunk.length_exponent == pytest.approx(only_length, abs=0.1)


def test_equal_norms_are_finite():
    given = list(responses(7))
    given[0] = np.ones(200)
    calibration = fitted(*given)
    np.testing.assert_allclose(values(calibration), [1, 0, 0], atol=1e-6)
    assert calibration.r_squared == 0
    assert np.isfinite(astuple(exponents(updated(CalibrationState(), *given)))).all()


def test_before_the_first_calibration_the_prior_stands():
    calibration = exponents(CalibrationState(), prior_error=0.1)
    assert astuple(calibration) == pytest.approx((*PRIOR_EXPONENTS, 0.1, 0.1, 0.1, 0, 0))
    nothing = updated(CalibrationState(), *responses(8, num=0))
    assert exponents(nothing, prior_error=0.1) == calibration
    one = updated(CalibrationState(), *responses(8, num=1))
    np.testing.assert_allclose(values(exponents(one)), PRIOR_EXPONENTS)


def test_many_calibrations_reach_the_truth_though_the_scale_drifts():
    state = CalibrationState()
    distances = []
    for seed in range(12):
        state = updated(state, *responses(seed, constant=2.0 - seed), decay=1.0)
        calibration = exponents(state)
        distances.append(np.abs(values(calibration) - TRUTH).max())
    assert distances[-1] < 0.015 < distances[0]
    assert (np.abs(values(calibration) - TRUTH) < 3 * errors(calibration)).all()
    assert calibration.num_responses == 2400
    assert errors(calibration).max() < 0.02


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(0.02, 3.0))
def test_noise_does_not_swing_the_exponents(seed, num, noise):
    state = updated(CalibrationState(), *responses(seed, num, PRIOR_EXPONENTS, noise))
    calibration = exponents(state)
    moved = np.linalg.norm(values(calibration) - PRIOR_EXPONENTS)
    assert moved <= 0.25 * math.sqrt(num - 1) / 2 + 1e-9
    assert (errors(calibration) <= 0.25 + 1e-9).all()


def test_forgetting():
    old = updated(CalibrationState(), *responses(0, truth=(1.0, 0.5, 0.0)))
    new = responses(1)
    kept, halved, gone = (exponents(updated(old, *new, decay=decay)) for decay in (1.0, 0.5, 0.0))
    assert [c.num_responses for c in (kept, halved, gone)] == [400, 300, 200]
    assert gone == exponents(updated(CalibrationState(), *new))
    assert (
        abs(kept.length_exponent - TRUTH[1])
        > abs(halved.length_exponent - TRUTH[1])
        > abs(gone.length_exponent - TRUTH[1])
    )
    assert updated(old, *responses(1, num=0), decay=0.5) is old


def test_the_given_state_is_left_alone_and_goes_through_plain_data():
    state = updated(CalibrationState(), *responses(0))
    before = to_plain(state)
    later = updated(state, *responses(1))
    np.testing.assert_equal(to_plain(state), before)
    assert isinstance(before["gram"], np.ndarray)
    restored = from_plain(CalibrationState(), before)
    assert exponents(updated(restored, *responses(1))) == exponents(later)


def test_metrics_are_listed():
    metrics = exponents(updated(CalibrationState(), *responses(0))).metrics()
    assert set(metrics) == set(METRICS)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert (
        replace(fitted(*responses(0)), r_squared=0.5).metrics()["cost/calibration_r_squared"] == 0.5
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, [1.0, np.nan], "norms must be finite and not negative, got"),
        (0, [1.0, -1.0], "norms must be finite and not negative, got"),
        (1, [1.0, np.inf], "advantages must be finite"),
        (3, [1.0, 1.0, 1.0], r"surprise must have one entry per response.* got shape \(3,\)"),
    ],
)
def test_refuses_values(column, value, message):
    given = list(responses(0, num=2))
    given[column] = np.array(value)
    with pytest.raises(ValueError, match=f"^{message}"):
        updated(CalibrationState(), *given)


def test_refuses_settings():
    with pytest.raises(ValueError, match=r"^calibration\.decay must lie in \[0, 1\], got 2"):
        updated(CalibrationState(), *responses(0), decay=2)
    with pytest.raises(ValueError, match=r"^calibration\.prior_error must be positive, got 0"):
        exponents(CalibrationState(), prior_error=0)
