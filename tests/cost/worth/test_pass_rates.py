import numpy as np
import pytest

from cost.worth.pass_rates import PassRates
from cost.worth.predictors import RidgePredictor


def test_forgetful_beta_with_prediction(pool, make_visit):
    rates = PassRates(decay=0.5, prior_responses=4.0)
    state = rates.initial_state(pool)
    assert rates.estimate(state, pool).tolist() == [0.5] * 4
    visits = [make_visit(0, [1] * 4, [1, 1, 1, 1]), make_visit(0, [1] * 4, [1, 0, 0, 0])]
    state = rates.update(state, pool, visits)
    prior = RidgePredictor().predict(state.prior, pool)[0]
    expected = (0.5 * 4 + 1 + 4 * prior) / (0.5 * 4 + 4 + 4)
    assert rates.estimate(state, pool)[0] == pytest.approx(expected, rel=1e-12)


def test_unusable_rewards_are_left_out_and_others_clipped(pool, make_visit):
    rates = PassRates(decay=1.0, prior_responses=1e-9)
    visits = [make_visit(0, [1] * 3, [np.nan, 1.2, -3.0]), make_visit(1, [1, 1], [np.nan] * 2)]
    state = rates.update(rates.initial_state(pool), pool, visits)
    assert rates.estimate(state, pool)[0] == pytest.approx(0.5, abs=1e-6)
    assert state.masses.tolist() == [2, 0, 0, 0]
