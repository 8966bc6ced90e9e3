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


def test_a_single_response_counts_and_a_rate_may_be_any(pool, make_visit):
    rates = PassRates(decay=1.0, prior_responses=1e-9)
    visits = [make_visit(0, [1] * 2, [np.nan, 0.0]), make_visit(1, [1] * 2, [1.0, 1.0])]
    state = rates.update(rates.initial_state(pool), pool, visits)
    np.testing.assert_allclose(rates.estimate(state, pool)[:2], [0, 1], atol=1e-6)
    assert state.num_readings == 2


def test_what_was_seen_of_a_prompt_does_not_move_with_the_others(pool, make_visit):
    """A prompt that was solved half the time is not thought better of when the pool improves."""
    rates = PassRates(decay=1.0, prior_responses=1e-9)
    state = rates.initial_state(pool)
    for index, rewards in ((1, [1.0, 0.0, 0.0]), (0, [1.0, 0.0]), (1, [1.0, 1.0, 1.0])):
        visits = [make_visit(index, [1] * len(rewards), rewards)] * (1 if index == 0 else 150)
        state = rates.update(state, pool, visits)
    assert rates.estimate(state, pool)[0] == pytest.approx(0.5, abs=1e-6)
