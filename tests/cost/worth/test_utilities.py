from itertools import product

import numpy as np
import pytest

from cost.worth.predictors import PoolMeanPredictor
from cost.worth.utilities import ConstantUtility, GroupSurprise, PassRateVariance


def test_pass_rate_variance_is_the_expected_squared_advantage(pool):
    """Enumerate all groups of 4 binary rewards: E mean A^2 for both kinds of advantage."""
    a = np.array([0.0, 0.2, 0.5, 0.9])
    plain, standardised = np.zeros(4), np.zeros(4)
    for rewards in product([0, 1], repeat=4):
        chance = a ** sum(rewards) * (1 - a) ** (4 - sum(rewards))
        plain += chance * np.var(rewards)
        standardised += chance * (np.var(rewards) > 0)
    value = PassRateVariance().value(pool, a, 4)
    np.testing.assert_allclose(value * 3 / 4, plain, atol=1e-12)  # common factor (n - 1) / n
    value = PassRateVariance(standardised=True).value(pool, a, 4)
    np.testing.assert_allclose(value, standardised, atol=1e-12)


def test_group_surprise_formula(pool, make_visit):
    plug = GroupSurprise(prior_visits=3.0, prior=PoolMeanPredictor(decay=1.0))
    visit = make_visit(1, [10, 20], [1.0, 0.0], surprise=[4.0, 6.0], factors=[0.1, 0.05])
    state = plug.update(plug.initial_state(pool), pool, [visit, make_visit(2, [5, 5], [1, 1])])
    own = (4.0 / 100 + 6.0 / 400) / 2  # advantages are +1 and -1
    prior = own / 2
    expected = [prior, (own + 3 * prior) / 4, 3 * prior / 4, prior]
    np.testing.assert_allclose(plug.value(pool, np.full(4, 0.5), 2, state=state), expected)


def test_groups_without_rewards_teach_nothing(pool, make_visit):
    plug = GroupSurprise()
    state = plug.update(plug.initial_state(pool), pool, [make_visit(0, [5], [np.nan])])
    assert state.num_readings == 0
    assert set(plug.value(pool, np.full(4, 0.5), 2, state=state)) == {1.0}


def test_constant(pool):
    assert ConstantUtility().value(pool, np.zeros(4), 2).tolist() == [1] * 4


def test_refuses():
    with pytest.raises(ValueError, match=r"utility\.prior_visits must be positive, got 0"):
        GroupSurprise(prior_visits=0)
