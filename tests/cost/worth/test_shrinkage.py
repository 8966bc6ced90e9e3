import numpy as np
import pytest

from cost.worth.predictors import PoolMeanPredictor
from cost.worth.shrinkage import Readings, ShrunkMean


def readings(indices, values, masses=None, weights=None):
    ones = np.ones(len(indices))
    return Readings(
        np.array(indices),
        np.array(values, float),
        ones if masses is None else np.array(masses, float),
        ones if weights is None else np.array(weights, float),
    )


def mean(**changes):
    settings = {
        "prior": PoolMeanPredictor(decay=1.0), "prior_count": 2.0, "decay": 0.5,
        "follow_drift": False, "pool_decay": 0.99,
    }  # fmt: skip
    return ShrunkMean(**(settings | changes))


def test_formula(pool):
    estimator = mean()
    state = estimator.update(
        estimator.initial_state(pool, 7.0), pool, readings([0, 0, 1], [10, 40, 90])
    )
    prior = (10 + 40 + 90) / 3
    own = (0.5 * 10 + 40) / 1.5
    expected = [(1.5 * own + 2 * prior) / 3.5, (90 + 2 * prior) / 3, prior, prior]
    np.testing.assert_allclose(estimator.estimate(state, pool), expected, rtol=1e-12)


def test_no_visit_gives_the_initial_value(pool):
    estimator = mean(prior_count=0.0)
    assert estimator.estimate(estimator.initial_state(pool, 7.0), pool).tolist() == [7.0] * 4


@pytest.mark.parametrize("drift", [False, True])
def test_one_call_or_many_give_the_same_state_and_leave_the_old_one(pool, drift):
    estimator = mean(follow_drift=drift, pool_decay=0.7)
    rng = np.random.default_rng(0)
    all_at_once = readings(rng.integers(0, 4, 40), rng.uniform(1, 9, 40), rng.integers(1, 9, 40))
    start = estimator.initial_state(pool, 7.0)
    whole = estimator.update(start, pool, all_at_once)
    state = start
    for row in range(40):
        part = Readings(*(getattr(all_at_once, n)[row : row + 1] for n in Readings.__slots__))
        state = estimator.update(state, pool, part)
    np.testing.assert_allclose(
        estimator.estimate(state, pool), estimator.estimate(whole, pool), rtol=1e-12
    )
    assert start.masses.sum() == 0 and start.num_readings == 0


def test_old_visits_follow_the_pool(pool):
    """Prompts go up and down with the pool, at different factors: so their estimates have to.

    Prompt 0 has twice the pool's mean always, prompt 2, seen in the warm-up alone, half of it, and
    prompt 3 a fifth. Weights of other sizes, alike for all, are no change of the pool.
    """
    estimator = mean(prior_count=0.0, follow_drift=True, pool_decay=0.5)
    state = estimator.initial_state(pool, 7.0)
    unnoticed = [1e-12]

    def pool_goes_to(value, weight):
        weights = [weight] * 60
        return estimator.update(state, pool, readings([1] * 60, [value] * 60, weights=weights))

    state = estimator.update(state, pool, readings([1], [10]))
    state = estimator.update(state, pool, readings([2, 3], [5, 2], weights=unnoticed * 2))
    state = pool_goes_to(30, 3.0)
    state = estimator.update(state, pool, readings([0, 3], [60, 6], weights=unnoticed * 2))
    np.testing.assert_allclose(estimator.estimate(state, pool), [60, 30, 15, 6], rtol=1e-6)
    state = pool_goes_to(20, 0.5)
    np.testing.assert_allclose(estimator.estimate(state, pool), [40, 20, 10, 4], rtol=1e-6)
    state = estimator.update(state, pool, readings([0], [40], weights=unnoticed))
    np.testing.assert_allclose(estimator.estimate(state, pool), [40, 20, 10, 4], rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_estimates_have_the_unit_of_what_was_read(pool, unit):
    estimator, found = mean(follow_drift=True, pool_decay=0.7), []
    for scale in (1.0, unit):
        rng = np.random.default_rng(0)
        values = scale * rng.uniform(1, 9, 40) * np.geomspace(1, 20, 40)
        seen = readings(rng.integers(0, 3, 40), values)
        state = estimator.update(estimator.initial_state(pool, scale), pool, seen)
        found.append(estimator.estimate(state, pool) / scale)
    np.testing.assert_allclose(*found, rtol=1e-9)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_warm_up_ends_with_the_reading_that_completes_it(pool, at_once):
    """Of a decay of .75 it is the fourth: 1 / (1 - .75)."""
    estimator = mean(follow_drift=True, pool_decay=0.75)
    values, warm = [10.0, 40.0, 20.0, 80.0, 900.0], (27 * 10 + 36 * 40 + 48 * 20 + 64 * 80) / 175
    state = estimator.initial_state(pool, 7.0)
    if at_once:
        state = estimator.update(state, pool, readings([0, 1, 2, 3, 0], values))
    else:
        for prompt, value in enumerate(values):
            assert np.isnan(state.warm_reference) == (prompt < 4)
            state = estimator.update(state, pool, readings([prompt % 4], [value]))
    assert state.warm_reference == pytest.approx(warm)
    assert np.isnan(state.references).tolist() == [False, True, True, True]


def test_a_pool_that_was_at_zero_says_nothing_of_drift(pool):
    """As tokens of tools are until the policy calls one: no factor leads from 0 to a number."""
    estimator = mean(prior_count=0.0, follow_drift=True, pool_decay=0.5)
    state = estimator.update(
        estimator.initial_state(pool, 7.0), pool, readings([0, 2, 2], [0, 0, 0])
    )
    state = estimator.update(state, pool, readings([1, 2], [8, 3]))
    np.testing.assert_allclose(estimator.estimate(state, pool)[[0, 2]], [0, 3 / 1.75])


def test_first_visits_do_not_drift_with_the_noise_of_a_young_pool(pool):
    estimator = mean(prior_count=0.0, follow_drift=True)
    state = estimator.initial_state(pool, 7.0)
    state = estimator.update(state, pool, readings([0, 1, 2], [10, 100, 400]))
    np.testing.assert_allclose(estimator.estimate(state, pool)[:3], [10, 100, 400])


def test_pool_mean_undoes_the_draw_probabilities(pool):
    """Short prompts drawn nine times as often, with a ninth of the weight: no drift seen."""
    estimator = mean(prior_count=0.0, follow_drift=True, pool_decay=0.999)
    state = estimator.initial_state(pool, 7.0)
    even = readings([0, 1] * 1000, [10, 90] * 1000)
    uneven = readings(([0] * 9 + [1]) * 300, ([10] * 9 + [90]) * 300, weights=([1] * 9 + [9]) * 300)
    state = estimator.update(state, pool, even)
    state = estimator.update(state, pool, uneven)
    assert state.pool_total / state.pool_weight == pytest.approx(50, rel=0.02)
