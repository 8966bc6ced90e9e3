from math import comb, factorial

import numpy as np
import pytest

from cost.worth.posterior import expected_variance, mixed_chance


def beta_moment(a, b, passes, fails):
    """E p^passes (1 - p)^fails under Beta(a, b) with whole a and b, by factorials."""
    above = factorial(a + passes - 1) * factorial(b + fails - 1) * factorial(a + b - 1)
    below = factorial(a + b + passes + fails - 1) * factorial(a - 1) * factorial(b - 1)
    return above / below


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_chance_of_a_mixed_group_sums_over_all_that_are_mixed(size):
    a, b = np.array([1, 2, 9, 1]), np.array([1, 7, 1, 30])
    expected = [
        sum(comb(size, k) * beta_moment(x, y, k, size - k) for k in range(1, size))
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    np.testing.assert_allclose(mixed_chance(a * 1.0, b * 1.0, size), expected, atol=1e-12)


def test_the_expected_variance_is_its_moment():
    a, b = np.array([1, 2, 9]), np.array([1, 7, 1])
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    expected = [beta_moment(x, y, 1, 1) for x, y in pairs]
    np.testing.assert_allclose(expected_variance(a * 1.0, b * 1.0), expected, rtol=1e-12)


def test_certainty_gives_the_value_at_the_mean_and_doubt_less():
    rate = np.array([0.03, 0.5, 0.9])
    at_mean = 1 - rate**8 - (1 - rate) ** 8
    np.testing.assert_allclose(mixed_chance(1e9 * rate, 1e9 * (1 - rate), 8), at_mean, rtol=1e-6)
    np.testing.assert_allclose(expected_variance(1e9 * rate, 1e9 * (1 - rate)), rate * (1 - rate))
    assert (mixed_chance(rate, 1 - rate, 8) < at_mean).all()
    assert (mixed_chance(1e-6 * rate, 1e-6 * (1 - rate), 8) < 1e-5).all()
