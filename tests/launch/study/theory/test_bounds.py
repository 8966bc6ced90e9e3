"""Closed forms, optimality and reductions of what sampling costs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.study.theory.bounds import (
    cost_aware,
    cost_moment,
    cost_only,
    lower_bound,
    norm_only,
    second_moment,
    uniform,
    upper_bound,
)

ONES, COSTS = np.array([1.0, 1.0]), np.array([1.0, 4.0])


@st.composite
def components(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 20))
    norms = rng.lognormal(0, draw(st.sampled_from([0.0, 0.5, 2.0])), size)
    costs = rng.lognormal(0, draw(st.sampled_from([0.0, 1.0, 2.0])), size)
    return norms, costs, rng


def test_the_smallest_example():
    p = cost_aware(ONES, COSTS)
    np.testing.assert_allclose(p, [2 / 3, 1 / 3])
    assert p @ COSTS == pytest.approx(2)
    assert second_moment(p, ONES) == pytest.approx(4.5)
    assert cost_moment(p, ONES, COSTS) == pytest.approx(9)
    assert cost_moment(uniform(ONES, COSTS), ONES, COSTS) == pytest.approx(10)


@given(components())
@settings(max_examples=100)
def test_the_four_products_in_closed_form(problem):
    norms, costs, _ = problem
    roots = np.sqrt(costs)
    for rule, product in (
        (uniform, costs.sum() * (norms**2).sum()),
        (norm_only, norms.sum() * (norms @ costs)),
        (cost_only, roots.sum() * (norms**2 @ roots)),
        (cost_aware, (norms @ roots) ** 2),
    ):
        assert cost_moment(rule(norms, costs), norms, costs) == pytest.approx(product)


@given(components())
@settings(max_examples=200)
def test_no_probabilities_beat_cost_aware(problem):
    norms, costs, rng = problem
    best = cost_moment(cost_aware(norms, costs), norms, costs)
    other = rng.dirichlet(np.full(len(norms), 2.0)) + 1e-9
    assert cost_moment(other / other.sum(), norms, costs) >= best * (1 - 1e-9)


def test_a_component_without_gradient_is_never_drawn_and_others_always_may():
    norms = np.array([1.0, 0.0])
    p = cost_aware(norms, COSTS)
    assert p.tolist() == [1, 0]
    assert second_moment(p, norms) == 1
    with pytest.raises(ValueError, match="positive wherever norms are"):
        second_moment(p, ONES)


def test_the_plan_meets_epsilon_by_its_own_proof():
    plan = upper_bound(radius=2, epsilon=0.1, step_cost=3, moment=5)
    assert plan.num_steps == 2000
    assert plan.cost == pytest.approx(6000)
    assert plan.step == pytest.approx(0.1 / 5)
    promised = 2**2 / (2 * plan.step * plan.num_steps) + plan.step * 5 / 2
    assert promised == pytest.approx(0.1)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        upper_bound(radius=2, epsilon=0, step_cost=3, moment=5)


def test_with_equal_costs_the_lower_bound_is_of_order_r2_g2_over_eps2():
    norms = np.array([0.5, 1.0, 2.0])
    bound = lower_bound(norms, np.ones(3), radius=3, epsilon=0.01)
    assert bound == pytest.approx((3 * 3.5 / 0.01) ** 2 / (64 * math.log(3)))


@given(components())
@settings(max_examples=100)
def test_the_bounds_meet_up_to_a_constant(problem):
    norms, costs, _ = problem
    radius = 2.0
    epsilon = radius * (norms @ np.sqrt(costs)) / (20 * np.sqrt(costs.max()))
    p = cost_aware(norms, costs)
    upper = upper_bound(radius, epsilon, float(p @ costs), second_moment(p, norms)).cost
    lower = lower_bound(norms, costs, radius, epsilon)
    assert upper / lower == pytest.approx(64 * math.log(3))


@given(components())
@settings(max_examples=100)
def test_the_adversary_of_the_lower_bound_does_its_best(problem):
    """sum q Delta^2 >= k costs at least k min(c / Delta^2); sum Delta G = 4 eps / R is given."""
    norms, costs, rng = problem
    radius = 2.0
    epsilon = radius * (norms @ np.sqrt(costs)) / (20 * np.sqrt(costs.max()))
    information = 1 / (4 * math.log(3))

    def cost_of(direction):
        delta = direction * 4 * epsilon / (radius * (direction @ norms))
        return information * (costs / delta**2).min(), delta

    best, delta = cost_of(np.sqrt(costs))
    assert best == pytest.approx(lower_bound(norms, costs, radius, epsilon))
    assert delta.max() <= 0.5
    assert cost_of(np.sqrt(costs) * rng.lognormal(0, 0.5, len(costs)))[0] <= best * (1 + 1e-9)


def test_a_query_tells_no_more_than_the_lower_bound_says():
    delta = np.linspace(1e-3, 0.5, 500)
    divergence = delta * np.log((1 + delta) / (1 - delta))
    assert (divergence <= 2 * math.log(3) * delta**2 * (1 + 1e-12)).all()


def test_the_lower_bound_refuses_an_epsilon_it_does_not_cover():
    with pytest.raises(ValueError, match="epsilon must be at most"):
        lower_bound(ONES, COSTS, radius=1, epsilon=1)


@pytest.mark.parametrize(
    ("norms", "costs", "message"),
    [
        ([1.0, -1.0], [1.0, 1.0], "norms must be finite"),
        ([0.0, 0.0], [1.0, 1.0], "norms must be finite"),
        ([1.0, 1.0], [1.0, 0.0], "costs must be finite and positive"),
        ([1.0], [1.0, 1.0], "vectors of one length"),
        ([], [], "vectors of one length"),
    ],
)
def test_bad_components_are_refused(norms, costs, message):
    for rule in (uniform, norm_only, cost_only, cost_aware):
        with pytest.raises(ValueError, match=message):
            rule(np.array(norms), np.array(costs))
