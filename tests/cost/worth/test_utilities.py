from itertools import product

import numpy as np
import pytest

from cost.worth.posterior import expected_variance, mixed_chance
from cost.worth.predictors import PoolMeanPredictor
from cost.worth.utilities import (
    MOST_CERTAIN,
    ConstantUtility,
    GroupSurprise,
    PassRateVariance,
    PosteriorMoment,
)


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
    assert plug.update(state, pool, [make_visit(0, [5, 5], [np.nan, 1.0])]).num_readings == 1


def test_old_values_follow_what_became_of_the_others(pool, make_visit):
    """Surprise falls as the policy learns; a prompt not visited meanwhile is no exception."""
    plug = GroupSurprise(prior_visits=1e-9)

    def visits(prompt, size, count, weight=1.0):
        rewards, surprise = [1.0, 0.0], [size, size]
        return [make_visit(prompt, [9, 9], rewards, weight=weight, surprise=surprise)] * count

    before = visits(1, 8.0, 110) + visits(0, 20.0, 1, weight=1e-9)
    state = plug.update(plug.initial_state(pool), pool, before)
    state = plug.update(state, pool, visits(1, 2.0, 600))
    values = plug.value(pool, np.full(4, 0.5), 2, state=state)
    np.testing.assert_allclose(values[:2], [5.0, 2.0], rtol=0.01)


def test_posterior_moment_formula(pool, make_visit):
    """Prompt 1 was mixed, prompt 2 always passed: the chance moves for both, the size for one."""
    plug = PosteriorMoment(prior_responses=3.0, prior_groups=2.0, prior=PoolMeanPredictor(1.0))
    mixed = make_visit(1, [10, 20], [1.0, 0.0], surprise=[4.0, 6.0], factors=[0.1, 0.05])
    state = plug.initial_state(pool)
    assert np.ptp(plug.value(pool, np.full(4, 0.5), 2, state=state)) == 0
    state = plug.update(state, pool, [mixed, make_visit(2, [5, 5], [1, 1])])
    a = 3 * 0.75 + np.array([0, 1, 2, 0])  # the pool passed 3 of 4
    b = 3 * 0.25 + np.array([0, 1, 0, 0])
    for found, expected in zip(plug.posterior(pool, state), (a, b), strict=True):
        np.testing.assert_allclose(found, expected)
    # The only size that was seen is the prediction everywhere.
    chances = mixed_chance(a, b, 2)
    values = plug.value(pool, np.full(4, 0.5), 2, state=state)
    np.testing.assert_allclose(values / values[0], chances / chances[0])
    other = make_visit(3, [10, 10], [1.0, 0.0], surprise=[500.0, 500.0], factors=[0.1, 0.1])
    state = plug.update(state, pool, [other])
    sizes = np.array([(4.0 / 100 + 6.0 / 400) / 2, 5.0])  # advantages are +1 and -1
    pooled = np.log(sizes).mean()
    own = (np.log(sizes) + 2 * pooled) / 3
    expected = np.exp([pooled, own[0], pooled, own[1]]) * mixed_chance(
        *plug.posterior(pool, state), 2
    )
    values = plug.value(pool, np.full(4, 0.5), 2, state=state)
    np.testing.assert_allclose(values / values[0], expected / expected[0])


def test_always_solved_and_never_solved_prompts_lose_worth_with_every_visit(pool, make_visit):
    for reward in (0.0, 1.0):
        plug = PosteriorMoment(prior=PoolMeanPredictor(1.0))
        balanced = [make_visit(0, [5] * 4, [1, 1, 0, 0])]
        state, worths = plug.update(plug.initial_state(pool), pool, balanced), []
        for _ in range(3):
            state = plug.update(state, pool, [make_visit(1, [5] * 4, [reward] * 4)])
            values = plug.value(pool, np.full(4, 0.5), 4, state=state)
            worths.append(values[1] / values[0])
        assert 1 > worths[0] > worths[1] > worths[2] > 0


def test_without_deviations_worth_is_the_expected_variance(pool, make_visit):
    plug = PosteriorMoment(standardised=False, prior=PoolMeanPredictor(1.0))
    visits = [make_visit(1, [5, 5], [1.0, 0.0]), make_visit(2, [5, 5], [1.0, 1.0])]
    state = plug.update(plug.initial_state(pool), pool, visits)
    expected = expected_variance(*plug.posterior(pool, state))
    # In groups of two, the chance of a mixed one is twice that.
    values = plug.value(pool, np.full(4, 0.5), 4, state=state)
    np.testing.assert_allclose(values / values[0], expected / expected[0])


def test_what_is_believed_of_a_pass_rate_does_not_follow_the_others(pool, make_visit):
    """A response of before counts its decay, whatever became of the pool meanwhile."""
    plug = PosteriorMoment(prior_responses=1e-9)
    seen = [make_visit(0, [5, 5], [1.0, 0.0]), *[make_visit(1, [5, 5], [1.0, 0.0])] * 110]
    state = plug.update(plug.initial_state(pool), pool, seen)
    state = plug.update(state, pool, [make_visit(1, [5, 5], [1.0, 1.0])] * 600)
    state = plug.update(state, pool, [make_visit(0, [5, 5], [1.0, 0.0])])
    for found in plug.posterior(pool, state):
        assert found[0] == pytest.approx(1.9)


def test_posterior_learns_nothing_from_groups_without_rewards(pool, make_visit):
    plug = PosteriorMoment()
    state = plug.update(plug.initial_state(pool), pool, [make_visit(0, [5], [np.nan])])
    assert state.rates.num_readings == state.log_moments.num_readings == 0


def test_sizes_of_gradients_may_be_any_and_one_of_zero_tells_none(pool, make_visit):
    """The surprise of a policy that is sure rounds to 0, which has no logarithm."""
    plug = PosteriorMoment()
    state = plug.initial_state(pool)
    for size in (0.0, 1e-300, 1e300):
        visit = make_visit(1, [5, 5], [1.0, 0.0], surprise=[size, size])
        state = plug.update(state, pool, [visit])
        worths = plug.value(pool, np.full(4, 0.5), 2, state=state)
        assert np.isfinite(worths).all() and worths.max() > 0
        assert state.log_moments.num_readings == state.rates.num_readings - 1


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_no_prediction_is_a_proof(pool, make_visit, reward):
    """Where all others were alike a prompt never visited may still be of the other kind."""
    plug = PosteriorMoment(prior_responses=5.0)
    visits = [make_visit(index, [5] * 4, [reward] * 4) for index in (0, 1, 2) * 5]
    passing, failing = plug.posterior(pool, plug.update(plug.initial_state(pool), pool, visits))
    unlikely = failing if reward else passing
    assert unlikely[3] == pytest.approx(5 * MOST_CERTAIN)


def test_constant(pool):
    assert ConstantUtility().value(pool, np.zeros(4), 2).tolist() == [1] * 4


def test_refuses():
    with pytest.raises(ValueError, match=r"utility\.prior_visits must be positive, got 0"):
        GroupSurprise(prior_visits=0)
    with pytest.raises(ValueError, match=r"utility\.prior_groups must be positive, got 0"):
        PosteriorMoment(prior_groups=0)
    with pytest.raises(ValueError, match=r"utility\.decay must lie in \[0, 1\], got 2"):
        PosteriorMoment(decay=2)
