"""Closed forms, optimality conditions and invariances of the water-filling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.thinning.waterfill import waterfill

TABLE = [
    ([1, 1], [1, 4], 1.5, 0.0, [0.5, 0.25], 6.0),
    ([1, 1], [1, 4], 4.0, 0.0, [1, 0.75], 7 / 3),
    ([1.5, 0.5, 0.5], [100, 400, 900], 700, 0.0, [1, 0.6, 0.4], 3.2916666666666665),
    ([1.5, 0.5, 0.5], [100, 400, 900], 700, 0.45, [1, 0.4875, 0.45], 3.318376068376068),
    ([1.5, 0.5, 0.5], [100, 400, 900], 700, 0.5, [0.5, 0.5, 0.5], 5.5),
]


@pytest.mark.parametrize(("scores", "costs", "budget", "floor", "expected", "value"), TABLE)
def test_closed_forms(scores, costs, budget, floor, expected, value):
    p = waterfill(np.array(scores, float), np.array(costs, float), budget, floor)
    np.testing.assert_allclose(p, expected, atol=1e-12)
    assert np.sum(np.square(scores) / p) == pytest.approx(value, abs=1e-12)


@st.composite
def problems(draw):
    size = draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    spread = draw(st.sampled_from([0.0, 0.5, 2.0, 5.0]))
    scores = rng.lognormal(0, spread, size)
    if draw(st.booleans()):
        scores = np.round(scores, 1)  # ties and exact zeros
    costs = rng.lognormal(4, draw(st.sampled_from([0.0, 1.0])), size)
    share = draw(st.floats(0.01, 1.2))
    floor = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    return scores, costs, share * costs.sum(), floor


@given(problems())
@settings(max_examples=300)
def test_budget_bounds_and_optimality_conditions(problem):
    scores, costs, budget, floor = problem
    p = waterfill(scores, costs, budget, floor)
    total = costs.sum()
    floor = min(floor, budget / total)
    assert (p >= floor - 1e-12).all() and (p <= 1).all()
    positive = scores > 0
    reachable = total if floor > 0 else costs[positive].sum()
    assert p @ costs == pytest.approx(min(budget, reachable), rel=1e-9)
    if floor * total >= budget * (1 - 1e-12):
        return
    # KKT: one multiplier for all that are strictly between the bounds; those at the cap would want
    # more, those at the floor less. The marginal gain of an item per unit of cost is G^2 / (c p^2).
    gain = np.divide(scores**2, costs * p**2, out=np.zeros_like(p), where=positive)
    free = positive & (p > floor * (1 + 1e-9)) & (p < 1)
    if free.any():
        level = np.median(gain[free])
        np.testing.assert_allclose(gain[free], level, rtol=1e-6)
        assert (gain[positive & (p >= 1)] >= level * (1 - 1e-6)).all()
        assert (gain[positive & (p <= floor)] <= level * (1 + 1e-6)).all()


@given(problems())
@settings(max_examples=100)
def test_agrees_with_bisection(problem):
    scores, costs, budget, floor = problem
    scores = scores + 1e-3
    floor = min(floor, budget / costs.sum())
    ratio = scores / np.sqrt(costs)
    low, high = 0.0, 2 / ratio.min()
    for _ in range(200):
        middle = (low + high) / 2
        spent = costs @ np.clip(middle * ratio, floor, 1)
        low, high = (middle, high) if spent < budget else (low, middle)
    expected = np.clip(high * ratio, floor, 1)
    np.testing.assert_allclose(waterfill(scores, costs, budget, floor), expected, atol=1e-7)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_no_feasible_neighbour_is_better(problem, seed):
    scores, costs, budget, _ = problem
    scores = scores + 1e-3
    p = waterfill(scores, costs, budget, 0.0)
    rng = np.random.default_rng(seed)
    other = np.clip(p * rng.lognormal(0, 0.3, len(p)), 1e-6, 1)
    other *= min(1.0, (p @ costs) / (other @ costs))  # spends no more
    assert (scores**2 / p).sum() <= (scores**2 / other).sum() * (1 + 1e-9)


@given(problems(), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
@settings(max_examples=100)
def test_scale_of_scores_and_of_costs_does_not_matter(problem, score_scale, cost_scale):
    scores, costs, budget, floor = problem
    p = waterfill(scores, costs, budget, floor)
    scaled = waterfill(scores * score_scale, costs * cost_scale, budget * cost_scale, floor)
    np.testing.assert_allclose(scaled, p, rtol=1e-7, atol=1e-9)


@given(problems(), st.floats(1.0, 3.0))
@settings(max_examples=100)
def test_more_budget_lowers_no_probability(problem, factor):
    scores, costs, budget, floor = problem
    more = waterfill(scores, costs, budget * factor, floor)
    assert (more >= waterfill(scores, costs, budget, floor) - 1e-9).all()


def test_large_budget_keeps_all_that_have_a_gradient():
    scores, costs = np.array([1.0, 0.0, 2.0]), np.array([1.0, 1.0, 1.0])
    assert waterfill(scores, costs, 3.0).tolist() == [1, 0, 1]
    assert waterfill(scores, costs, 3.0, floor=0.1).tolist() == [1, 1, 1]
    assert waterfill(scores, costs, 2.5, floor=0.1).tolist() == [1, 0.5, 1]


def test_unpayable_floor_gives_the_uniform_rule():
    p = waterfill(np.array([5.0, 1.0]), np.array([10.0, 30.0]), 4.0, floor=0.5)
    assert p.tolist() == [0.1, 0.1]


def test_nothing_to_fill():
    assert waterfill(np.zeros(0), np.zeros(0), 1.0).shape == (0,)
    assert waterfill(np.zeros(2), np.ones(2), 1.0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("scores", "costs", "budget", "floor", "message"),
    [
        ([-1.0], [1.0], 1, 0, "scores must be finite and not negative"),
        ([np.nan], [1.0], 1, 0, "scores must be finite"),
        ([1.0], [0.0], 1, 0, "costs must be finite and positive"),
        ([1.0], [1.0], -1, 0, "budget must not be negative"),
        ([1.0], [1.0], 1, 2, "floor must lie in"),
        ([1.0], [1.0, 2.0], 1, 0, "vectors of one length"),
    ],
)
def test_refuses(scores, costs, budget, floor, message):
    with pytest.raises(ValueError, match=message):
        waterfill(np.array(scores), np.array(costs), budget, floor)
