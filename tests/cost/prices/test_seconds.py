"""The fit: recovery of known machines, and what it must never do."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.prices.seconds import (
    NOISES,
    USUAL_MASS,
    USUAL_NOISE,
    FitState,
    SecondsPrice,
    nonnegative_least_squares,
)
from cost.prices.tokens import TokenPrice
from cost.state import from_plain, to_plain
from cost.types import BatchSpending

ENGINE = np.array([0.02, 1e-4, 3e-3])
LEARNER = np.array([0.01, 5e-4])
PROMPTS, LENGTHS = np.array([20, 20, 200]), np.array([10.0, 500.0, 100.0])
quick = settings(max_examples=60)


def batches(count, seed=0, noise=0.0, spread=0.5, slower=1.0, engine=ENGINE, learner=LEARNER):
    """Spendings of a machine with known seconds per count."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        responses = int(rng.integers(64, 129))
        prompts = responses // 8 * int(100 * math.exp(spread * rng.normal()))
        tokens = responses * int(200 * math.exp(spread * rng.normal()))
        trained = responses // 2
        counts = np.array([responses, prompts, tokens])
        passed = np.array([trained, 4 * prompts + tokens // 2])
        factors = slower * np.exp(noise * rng.normal(size=2))
        yield BatchSpending(
            responses=responses, prefill_tokens=prompts, response_tokens=tokens,
            engine_seconds=float(factors[0] * engine @ counts), trained_responses=trained,
            trained_prompt_tokens=4 * prompts, trained_response_tokens=tokens // 2,
            learner_seconds=float(factors[1] * learner @ passed),
        )  # fmt: skip


def fold(price, spendings, state=None):
    state = price.initial_state(None) if state is None else state
    for spending in spendings:
        state = price.update_spending(state, spending)
    return state


def coefficients(price, state):
    metrics = price.metrics(state)
    engine = ("overhead_seconds", "prefill_seconds_per_token", "decode_seconds_per_token")
    learner = ("update_overhead_seconds", "update_seconds_per_token")
    return tuple(np.array([metrics[f"cost/price_{k}"] for k in keys]) for keys in (engine, learner))


def test_before_the_first_batch_tokens_are_the_price():
    price = SecondsPrice()
    state = price.initial_state(None)
    for known in (state, fold(price, batches(1))):
        drawing = price.of_drawing(PROMPTS, LENGTHS, 8, state=known)
        assert (drawing == TokenPrice().of_drawing(PROMPTS, LENGTHS, 8)).all()
        training = price.of_training(PROMPTS, LENGTHS, state=known)
        assert (training == TokenPrice().of_training(PROMPTS, LENGTHS)).all()
        assert price.metrics(known) == {}


def test_recovers_a_machine():
    price = SecondsPrice(doubt=100.0)
    state = fold(price, batches(60))
    engine, learner = coefficients(price, state)
    np.testing.assert_allclose(engine, ENGINE, rtol=0.01)
    np.testing.assert_allclose(learner, LEARNER, rtol=0.01)
    assert price.metrics(state)["cost/price_error_share"] < 1e-3
    training = LEARNER[0] + LEARNER[1] * (PROMPTS + LENGTHS)
    np.testing.assert_allclose(price.of_training(PROMPTS, LENGTHS, state=state), training, 0.01)
    drawing = ENGINE[0] + ENGINE[1] * PROMPTS / 8 + ENGINE[2] * LENGTHS + 0.5 * training
    np.testing.assert_allclose(
        price.of_drawing(PROMPTS, LENGTHS, 8, state=state), drawing, rtol=0.02
    )
    alone = replace(price, prefix_caching=False)
    more = alone.of_drawing(PROMPTS, LENGTHS, 8, state=state) - drawing
    assert (np.abs(more - ENGINE[1] * PROMPTS * 7 / 8) < 0.02 * drawing).all()


def test_recovers_a_noisy_machine_roughly_with_the_defaults():
    price = SecondsPrice(decay=0.98)
    totals = []
    for seed in range(20):
        state = fold(price, batches(100, seed, noise=0.1))
        engine, learner = coefficients(price, state)
        assert engine[2] == pytest.approx(ENGINE[2], rel=0.1)
        assert learner[1] == pytest.approx(LEARNER[1], rel=0.15)
        totals.append(price.metrics(state)["cost/price_error_share"])
    # One step ahead, what remains is the noise: the mean of |normal| is .8 of its deviation.
    assert 0.04 < np.mean(totals) < 0.16


def test_collinear_batches_keep_equal_seconds_per_token_and_predict_the_total():
    price = SecondsPrice(skip_batches=0)
    spending = next(batches(1))
    state = fold(price, [spending] * 30)
    engine, learner = coefficients(price, state)
    tokens = spending.prefill_tokens + spending.response_tokens
    expected = np.array([0, 1, 1]) * spending.engine_seconds / tokens
    np.testing.assert_allclose(engine, expected, rtol=1e-6, atol=1e-9)
    assert learner[0] == pytest.approx(0, abs=1e-12)
    assert price.metrics(state)["cost/price_error_share"] == pytest.approx(0, abs=1e-9)


def test_collinear_batches_with_noise_predict_within_it():
    price = SecondsPrice()
    state = fold(price, batches(40, noise=0.05, spread=0.01))
    errors = []
    for spending in batches(30, seed=1, noise=0.05, spread=0.01):
        state = price.update_spending(state, spending)
        errors.append(price.metrics(state)["cost/price_error_share"])
    assert np.mean(errors) < 0.06


@given(seed=st.integers(0, 10**6), noise=st.floats(0, 2), spread=st.floats(0, 2))
@quick
def test_is_never_negative_and_free_of_units(seed, noise, spread):
    rng = np.random.default_rng(seed)
    engine = rng.lognormal(0, 2, 3) * rng.integers(0, 2, 3)
    price = SecondsPrice(skip_batches=0)
    spendings = [*batches(int(rng.integers(1, 9)), seed, noise, spread, engine=engine)]
    state = fold(price, spendings)
    slow = [
        replace(s, engine_seconds=60 * s.engine_seconds, learner_seconds=60 * s.learner_seconds)
        for s in spendings
    ]
    slow_state = fold(price, slow)
    for name, value in price.metrics(state).items():
        assert math.isfinite(value) and value >= 0, name
    if engine.any():
        one = price.of_drawing(PROMPTS, LENGTHS, 8, state=state)
        other = price.of_drawing(PROMPTS, LENGTHS, 8, state=slow_state)
        np.testing.assert_allclose(other, 60 * one, rtol=1e-6)
        assert (one > 0).all()


def test_finds_out_that_responses_cost_and_tokens_do_not():
    """An engine whose steps are few and long: the prior split is far off."""
    engine = np.array([0.02, 0.0, 0.0])
    price = SecondsPrice()
    state = fold(price, batches(60, noise=0.1, engine=engine))
    fitted, _ = coefficients(price, state)
    assert fitted[0] == pytest.approx(0.02, rel=0.2)
    assert fitted[2] * 200 < 0.004


@pytest.mark.parametrize("count", [3, 6, 40])
def test_seconds_that_belong_to_other_batches_hardly_move_the_split(count):
    """Generation that overlaps learning gives a batch seconds of its neighbours."""
    price = SecondsPrice(skip_batches=0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        told = [
            replace(s, engine_seconds=2 * rng.random() * s.engine_seconds)
            for s in batches(count, seed, spread=0.2)
        ]
        engine, _ = coefficients(price, fold(price, told))
        parts = engine * [96, 1200, 19200]
        assert parts[2] > 0.5 * parts.sum()


def test_a_machine_that_gets_slower_is_followed():
    price = SecondsPrice(decay=0.8)
    state = fold(price, batches(40))
    before = price.of_drawing(PROMPTS, LENGTHS, 8, state=state)
    state = fold(price, batches(1, seed=2, slower=2.0), state)
    assert price.metrics(state)["cost/price_error_share"] == pytest.approx(0.5, abs=0.05)
    state = fold(price, batches(30, seed=3, slower=2.0), state)
    after = price.of_drawing(PROMPTS, LENGTHS, 8, state=state)
    np.testing.assert_allclose(after / before, 2.0, rtol=0.15)
    assert price.metrics(state)["cost/price_error_share"] < 0.05


def test_the_first_batches_are_left_out():
    compiling = replace(next(batches(1)), engine_seconds=1e4, learner_seconds=1e4)
    price = SecondsPrice()
    state = fold(price, [compiling, *batches(10)])
    plain = replace(price, skip_batches=0)
    expected = fold(plain, batches(10))
    np.testing.assert_array_equal(
        price.of_drawing(PROMPTS, LENGTHS, 8, state=state),
        plain.of_drawing(PROMPTS, LENGTHS, 8, state=expected),
    )


def test_the_state_is_left_as_it_is_and_travels():
    price = SecondsPrice(skip_batches=0)
    state = fold(price, batches(3))
    plain = to_plain(state)
    again = fold(price, batches(3, seed=1), state)
    np.testing.assert_equal(to_plain(state), plain)
    restored = from_plain(price.initial_state(None), plain)
    np.testing.assert_equal(to_plain(fold(price, batches(3, seed=1), restored)), to_plain(again))
    assert price.update(state, None, []) is state


def test_a_learner_that_trained_on_nothing_costs_nothing_in_a_draw():
    idle = [
        replace(s, trained_responses=0, trained_prompt_tokens=0, trained_response_tokens=0)
        for s in batches(5)
    ]
    price = SecondsPrice(skip_batches=0)
    state = fold(price, idle)
    cost = price.of_drawing(PROMPTS, LENGTHS, 8, state=state)
    np.testing.assert_allclose(cost, np.sort(cost)[[0, 2, 1]])
    assert (cost > 0).all() and (cost < 10).all(), "seconds, not tokens"
    assert price.of_training(PROMPTS, LENGTHS, state=state).tolist() == [30, 520, 300]
    assert price.metrics(state)["cost/price_trained_share"] == 0


def test_seconds_that_were_never_told_leave_tokens_as_the_price():
    nothing = [replace(s, engine_seconds=0.0, learner_seconds=0.0) for s in batches(4)]
    price = SecondsPrice(skip_batches=0)
    state = fold(price, nothing)
    assert price.of_drawing(PROMPTS, LENGTHS, 8, state=state).tolist() == [30, 520, 300]


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("key", ["engine_seconds", "learner_seconds"])
def test_refuses_seconds_that_cannot_be(key, seconds):
    price = SecondsPrice()
    with pytest.raises(ValueError, match=f"{key} must be finite and not negative, got {seconds}"):
        fold(price, [replace(next(batches(1)), **{key: seconds})])


@pytest.mark.parametrize(
    "changes",
    [
        {"decay": 1.5}, {"decay": math.nan}, {"doubt": 0.0}, {"doubt": math.inf},
        {"skip_batches": -1},
    ],
)  # fmt: skip
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"price\.{next(iter(changes))} must .* got"):
        SecondsPrice(**changes)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 4))
@quick
def test_nonnegative_least_squares_meets_its_conditions(seed, size):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, size))
    gram, cross = rows.T @ rows + 1e-3 * np.eye(size), 3 * rng.normal(size=size)
    x = nonnegative_least_squares(gram, cross)
    slope = gram @ x - cross
    assert (x >= 0).all()
    assert (slope >= -1e-8).all(), "no entry would lower the value by growing"
    assert abs(slope @ x) < 1e-8, "nor a positive one by shrinking"


def likeliest_noise(z, errors, doubt):
    """The noise of the best evidence, from the covariance of errors [V] = z [V, K] delta + noise.

    The usual noise counts as so many errors more.
    """
    surprises = []
    for noise in NOISES:
        covariance = noise**2 * np.eye(len(z)) + doubt**2 * z @ z.T
        usual = USUAL_MASS * (np.log(noise**2) + USUAL_NOISE**2 / noise**2)
        quadratic = errors @ np.linalg.solve(covariance, errors)
        surprises.append(np.linalg.slogdet(covariance)[1] + quadratic + usual)
    return NOISES[np.argmin(surprises)]


@given(seed=st.integers(0, 10**6), doubt=st.floats(0.1, 5), noise=st.floats(0.01, 1))
@quick
def test_shares_are_the_most_likely_ones_at_the_noise_of_the_best_evidence(seed, doubt, noise):
    """By the slope of what they minimise, from batches and not from sums."""
    rng = np.random.default_rng(seed)
    counts, prior = rng.lognormal(1, 1, (12, 3)), np.array([0.0, 1.0, 2.0])
    seconds = counts @ rng.lognormal(0, 1, 3) * np.exp(noise * rng.normal(size=12))
    state = FitState.empty(3)
    for row, told in zip(counts, seconds, strict=True):
        state = state.folded(row, told, 1.0)
    z, y = counts / counts.mean(axis=0), seconds / seconds.mean()
    expected = prior * counts.mean(axis=0) / (prior @ counts.mean(axis=0))
    ridge = (likeliest_noise(z, y - z @ expected, doubt) / doubt) ** 2
    shares = state.fitted(prior, doubt) * counts.mean(axis=0) / seconds.mean()
    slope = z.T @ (z @ shares - y) + ridge * (shares - expected)
    assert (shares >= 0).all() and (slope >= -1e-8).all() and abs(slope @ shares) < 1e-8


def test_sums_are_discounted():
    state = FitState.empty(2).folded(np.array([1.0, 2.0]), 3.0, 0.5)
    assert state.squares == 9.0
    state = state.folded(np.array([0.0, 1.0]), 1.0, 0.5)
    assert (state.mass, state.seconds) == (1.5, 2.5)
    assert state.counts.tolist() == [0.5, 2.0]
    assert state.cross.tolist() == [1.5, 4.0]
    assert state.gram.tolist() == [[0.5, 1.0], [1.0, 3.0]]
