"""Subset selection against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch.study.theory.subset
from launch.study.theory.subset import best_subset, drop_exactly, drop_greedily


@st.composite
def components(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 9))
    norms = rng.lognormal(0, 1, size)
    if draw(st.booleans()):
        norms = np.round(norms)  # ties and components without gradient
    return norms, rng.lognormal(0, draw(st.sampled_from([0.0, 1.0, 3.0])), size)


def subsets(size):
    return (np.array(keep) for keep in itertools.product([True, False], repeat=size))


@given(components(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_exact_is_brute_force_and_greedy_within_one_component(problem, share):
    norms, costs = problem
    allowance = share * norms.sum()
    work = norms * np.sqrt(costs)
    best = max(work[~keep].sum() for keep in subsets(len(norms)) if norms[~keep].sum() <= allowance)
    exact, greedy = (drop(norms, costs, allowance) for drop in (drop_exactly, drop_greedily))
    for keep in (exact, greedy):
        assert norms[~keep].sum() <= allowance * (1 + 1e-12)
    assert work[~exact].sum() == pytest.approx(best, abs=1e-12)
    assert work[~greedy].sum() >= best - work.max() - 1e-12


@given(components(), st.sampled_from([0.02, 0.3, 0.9]))
@settings(max_examples=60, deadline=None)
def test_the_best_share_is_brute_force_over_all_subsets(problem, looseness):
    norms, costs = problem
    norms = norms + 0.1
    radius = 2.0
    epsilon = looseness * 2 * radius * norms.sum()
    work = norms * np.sqrt(costs)

    def cost_of(keep):
        share = 2 * radius * norms[~keep].sum() / epsilon
        return (radius * work[keep].sum() / ((1 - share) * epsilon)) ** 2 if share < 1 else np.inf

    best = min(cost_of(keep) for keep in subsets(len(norms)))
    exact = best_subset(norms, costs, radius, epsilon, exact=True)
    greedy = best_subset(norms, costs, radius, epsilon)
    assert exact.cost == pytest.approx(best)
    assert exact.cost <= greedy.cost * (1 + 1e-9)
    assert greedy.cost <= cost_of(np.ones(len(norms), bool)) * (1 + 1e-9)
    for subset in (exact, greedy):
        assert subset.cost == pytest.approx(cost_of(subset.keep))
        assert subset.share == pytest.approx(2 * radius * norms[~subset.keep].sum() / epsilon)
        # Dropping pays only where the dropped are a larger part of the work than of epsilon.
        if not subset.keep.all():
            assert work[~subset.keep].sum() / work.sum() > subset.share


@pytest.mark.parametrize(("cost", "pays"), [(0.9, False), (1.1, True)])
def test_half_of_epsilon_pays_only_for_more_than_half_of_the_work(cost, pays):
    """The last component has `cost` times the work of the others together, at half of epsilon."""
    norms = np.array([1.0, 1.0, 1.0])
    costs = np.array([1.0, 1.0, (2 * cost) ** 2])
    subset = best_subset(norms, costs, radius=1, epsilon=4)
    assert subset.keep.tolist() == [True, True, not pays]
    assert subset.share == (0.5 if pays else 0)


def test_costly_components_go_first_and_what_does_not_fit_is_passed_over():
    norms, costs = np.array([1.0, 3.0, 1.0, 1.0]), np.array([5.0, 9.0, 7.0, 1.0])
    assert drop_greedily(norms, costs, 2.0).tolist() == [False, True, False, True]


def test_too_many_sets_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(launch.study.theory.subset, "MOST_SETS", 10)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="choose greedily"):
        drop_exactly(rng.random(12), rng.random(12), 10.0)
