import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.draws.allocators.integers import check_bounds, evenly, filled, proportional, rounded

quick = settings(max_examples=80)
cases = st.tuples(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 5), st.booleans())


def draw_case(case):
    """Shares with zeros among them, costs, a budget that pays for `least` everywhere."""
    seed, size, least, with_costs = case
    rng = np.random.default_rng(seed)
    shares = rng.lognormal(0, 2, size) * (rng.random(size) < 0.7)
    shares[rng.integers(size)] = 1.0
    costs = rng.uniform(1, 50, size) if with_costs else np.ones(size)
    budget = float(costs.sum()) * (least + int(rng.integers(1, 20)))
    return rng, shares, costs, budget, least


@given(cases)
@quick
def test_proportional_spends_the_budget_and_keeps_proportions(case):
    _, shares, costs, budget, least = draw_case(case)
    amounts = proportional(shares, costs, budget, least)
    assert amounts @ costs == pytest.approx(budget)
    assert (amounts >= least).all()
    above = amounts > least
    ratio = amounts[above] / shares[above]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert (amounts[~above] >= ratio[0] * shares[~above] - 1e-9).all()


def test_proportional_has_the_least_variance_within_the_budget():
    """Against a grid over all three-part splits of the budget."""
    u, costs, budget, least = np.array([3.0, 1.0, 0.2]), np.array([1.0, 4.0, 2.0]), 60.0, 2.0
    best = proportional(u / np.sqrt(costs), costs, budget, least)
    first, second = np.meshgrid(np.linspace(2, 60, 300), np.linspace(2, 15, 300))
    third = (budget - first * costs[0] - second * costs[1]) / costs[2]
    variances = u[0] ** 2 / first + u[1] ** 2 / second + u[2] ** 2 / np.where(third >= 2, third, 1)
    found = float((u**2 / best).sum())
    assert best[2] == pytest.approx(least)
    assert found <= variances[third >= 2].min() <= found * 1.01


def test_proportional_of_a_budget_that_pays_the_least_only():
    np.testing.assert_allclose(proportional(np.array([1.0, 5.0]), np.ones(2), 6.0, 3.0), [3, 3])


@given(cases)
@quick
def test_rounded_stays_within_one_and_within_budget(case):
    rng, shares, costs, budget, least = draw_case(case)
    amounts = proportional(shares, costs, budget, least)
    order = rng.permutation(np.flatnonzero(shares))
    counts = rounded(amounts, costs, budget, order)
    assert counts.dtype == np.int64
    assert (np.abs(counts - amounts) < 1 + 1e-6).all() and (counts >= least).all()
    assert (counts[shares == 0] == least).all()
    left = budget - counts @ costs
    assert -1e-6 * budget <= left < costs.max()
    if (costs == 1).all():
        assert counts.sum() == round(budget)


def test_rounded_gives_the_remainder_in_order_and_leaves_whole_numbers():
    amounts = np.array([1.5, 2.3, 0.2, 4 - 1e-12])
    order = np.array([2, 0, 1])
    assert rounded(amounts, np.ones(4), 8.0, order).tolist() == [1, 2, 1, 4]


@given(cases)
@quick
def test_filled_keeps_bounds_and_spends_what_fits(case):
    rng, values, costs, budget, least = draw_case(case)
    counts = np.full(len(values), least)
    upper = counts + rng.integers(0, 12, len(values))
    result = filled(counts, lambda i, n: values[i] / (n + 1) / costs[i], upper, costs, budget)
    assert (counts <= result).all() and (result <= upper).all()
    left = budget - result @ costs
    assert left >= -1e-6 * budget
    open_costs = costs[result < upper]
    assert len(open_costs) == 0 or left < open_costs.min() + 1e-6 * budget


def test_filled_breaks_ties_by_the_smaller_group_then_by_place():
    upper, ones = np.full(3, 9), np.ones(3)
    assert filled(np.array([4, 1, 1]), evenly, upper, ones, 9.0).tolist() == [4, 3, 2]
    assert filled(np.full(3, 2), lambda i, n: 0.0, upper, ones, 7.0).tolist() == [3, 2, 2]


def test_nothing_to_fill():
    nothing = np.zeros(0)
    empty = filled(nothing.astype(np.int64), evenly, nothing.astype(np.int64), nothing, 0.0)
    assert empty.dtype == np.int64 and len(empty) == 0


def test_bounds_that_exclude_the_mean():
    check_bounds(8, 2, 8)
    with pytest.raises(ValueError, match=r"^allocator\.min_samples must be at most .* got 9"):
        check_bounds(8, 9)
    with pytest.raises(ValueError, match=r"^allocator\.max_samples must be at least .* got 7"):
        check_bounds(8, 2, 7)
