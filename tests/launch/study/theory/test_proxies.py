"""What wrong proxies cost stays within Kantorovich's bound, which is attained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.study.theory.bounds import cost_aware, cost_moment
from launch.study.theory.proxies import wrong_proxy_factor

ONES = np.array([1.0, 1.0])


@st.composite
def components(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 20))
    norms = rng.lognormal(0, draw(st.sampled_from([0.0, 0.5, 2.0])), size)
    costs = rng.lognormal(0, draw(st.sampled_from([0.0, 1.0, 2.0])), size)
    return norms, costs, rng


@given(components(), st.floats(1, 100), st.booleans())
@settings(max_examples=200)
def test_wrong_proxies_cost_at_most_the_factor(problem, spread, of_costs):
    norms, costs, rng = problem
    errors = rng.uniform(1, spread, len(norms))
    guessed = (norms, costs / errors**2) if of_costs else (norms * errors, costs)
    best = cost_moment(cost_aware(norms, costs), norms, costs)
    product = cost_moment(cost_aware(*guessed), norms, costs)
    assert product <= wrong_proxy_factor(1, spread) * best * (1 + 1e-9)


@pytest.mark.parametrize(("least", "most", "factor"), [(1, 2, 1.125), (0.5, 2, 1.5625), (3, 3, 1)])
def test_the_factor_is_attained_by_two_equal_halves(least, most, factor):
    assert wrong_proxy_factor(least, most) == factor
    p = cost_aware(np.array([least, most]), np.ones(2))
    assert cost_moment(p, ONES, np.ones(2)) / 4 == pytest.approx(factor)
