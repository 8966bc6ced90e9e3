from dataclasses import replace

import numpy as np
import pytest

from cost.prompts import prompt_pool
from cost.worth import predictors
from cost.worth.predictors import MAX_SOURCE_COLUMNS, PoolMeanPredictor, RidgePredictor


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    sources = [f"source{code}" for code in rng.integers(0, 3, 300)]
    return prompt_pool(rng.integers(10, 300, 300), sources, max_tokens=1000)


def truth(prompts):
    offsets = np.array([0.0, 100.0, 300.0])[prompts.source_codes]
    return 50 + 0.5 * prompts.prompt_tokens + offsets


def test_ridge_predicts_prompts_it_never_saw(prompts):
    predictor = RidgePredictor(ridge=0.1, decay=1.0)
    seen = np.arange(200)
    state = predictor.initial_state(prompts, 1000.0)
    state = predictor.update(state, prompts, seen, truth(prompts)[seen])
    error = predictor.predict(state, prompts)[200:] - truth(prompts)[200:]
    assert np.abs(error).max() < 5


def test_ridge_equals_the_closed_form_with_weights_decaying(prompts):
    predictor = RidgePredictor(ridge=3.0, decay=0.9)
    values = truth(prompts)[:20]
    state = predictor.update(predictor.initial_state(prompts, 0.0), prompts, np.arange(20), values)
    tokens = prompts.prompt_tokens.astype(float)
    columns = np.stack([tokens, np.log(tokens)], axis=1)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    one_hot = np.eye(3)[prompts.source_codes]
    x = np.concatenate([np.ones((300, 1)), columns, one_hot], axis=1)
    age = 0.9 ** np.arange(19, -1, -1)
    centre = age @ values / age.sum()
    gram = (x[:20] * age[:, None]).T @ x[:20] + 3.0 * np.eye(6)
    weights = np.linalg.solve(gram, (x[:20] * age[:, None]).T @ (values - centre))
    expected = np.clip(centre + x @ weights, values.min(), values.max())
    np.testing.assert_allclose(predictor.predict(state, prompts), expected, rtol=1e-9)


def test_features_are_columns_like_any_other(prompts, monkeypatch):
    """Chunks of prompts are predicted alike, and what only features tell is found."""
    features = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float16)
    with_features = replace(prompts, features=features)
    values = truth(prompts) + features @ np.array([80.0, -40.0])
    predictor = RidgePredictor(ridge=0.1, decay=1.0)
    state = predictor.initial_state(with_features, 0.0)
    state = predictor.update(state, with_features, np.arange(200), values[:200])
    predicted = predictor.predict(state, with_features)
    inside = (values[200:] > values[:200].min()) & (values[200:] < values[:200].max())
    assert np.abs(predicted - values)[200:][inside].max() < 5
    monkeypatch.setattr(predictors, "CHUNK", 7)
    np.testing.assert_allclose(predictor.predict(state, with_features), predicted, rtol=1e-5)


@pytest.mark.parametrize("predictor", [RidgePredictor(), PoolMeanPredictor(decay=0.5)])
def test_one_update_or_many_are_the_same(prompts, predictor):
    start = predictor.initial_state(prompts, 0.0)
    whole = predictor.update(start, prompts, np.arange(9), truth(prompts)[:9])
    state = start
    for index in range(9):
        one = np.array([index])
        state = predictor.update(state, prompts, one, truth(prompts)[one])
    np.testing.assert_allclose(
        predictor.predict(state, prompts), predictor.predict(whole, prompts), rtol=1e-9
    )


@pytest.mark.parametrize("predictor", [RidgePredictor(), PoolMeanPredictor()])
def test_initial_value_and_range(predictor, prompts):
    state = predictor.initial_state(prompts, 42.0)
    assert set(predictor.predict(state, prompts)) == {42.0}
    state = predictor.update(state, prompts, np.array([0, 1]), np.array([5.0, 9.0]))
    prediction = predictor.predict(state, prompts)
    assert prediction.min() >= 5 and prediction.max() <= 9


def test_more_sources_than_columns():
    sources = [f"source{code}" for code in range(2 * MAX_SOURCE_COLUMNS)]
    prompts = prompt_pool(np.arange(1, len(sources) + 1), sources, 100)
    predictor = RidgePredictor()
    state = predictor.initial_state(prompts, 1.0)
    state = predictor.update(state, prompts, np.arange(64), np.arange(64.0))
    prediction = predictor.predict(state, prompts)
    assert np.isfinite(prediction).all() and len(prediction) == len(sources)


def test_sources_beyond_the_columns_are_one_and_prompts_alike_in_length_are_no_fault():
    sources = [f"source{code:02}" for code in range(2 * MAX_SOURCE_COLUMNS)]
    prompts = prompt_pool(np.full(len(sources), 20), sources, 100)
    predictor = RidgePredictor(ridge=0.1)
    state = predictor.initial_state(prompts, 1.0)
    prediction = predictor.predict(
        predictor.update(state, prompts, np.arange(64), np.arange(64.0)), prompts
    )
    known = prompts.source_codes < MAX_SOURCE_COLUMNS
    assert known.sum() == MAX_SOURCE_COLUMNS and np.ptp(prediction[~known]) == 0
    np.testing.assert_allclose(prediction[known], np.flatnonzero(known), atol=6)


@pytest.mark.parametrize("kind", [RidgePredictor, PoolMeanPredictor])
def test_refuses_decay(kind):
    with pytest.raises(ValueError, match=r"predictor\.decay must lie in \(0, 1\], got 0"):
        kind(decay=0.0)
