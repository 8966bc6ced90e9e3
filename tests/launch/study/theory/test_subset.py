"""Subset selection against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.study.theory.subset import best_subset


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


@given(components(), st.sampled_from([0.02, 0.3, 0.9]))
@settings(max_examples=60)
def test_the_best_share_is_no_worse_than_every_prefix_and_no_better_than_every_set(
    problem, looseness
):
    norms, costs = problem
    norms = norms + 0.1
    radius = 2.0
    epsilon = looseness * 2 * radius * norms.sum()
    work = norms * np.sqrt(costs)

    def cost_of(keep):
        share = 2 * radius * norms[~keep].sum() / epsilon
        return (radius * work[keep].sum() / ((1 - share) * epsilon)) ** 2 if share < 1 else np.inf

    subset = best_subset(norms, costs, radius, epsilon)
    assert subset.cost == pytest.approx(cost_of(subset.keep))
    assert subset.share == pytest.approx(2 * radius * norms[~subset.keep].sum() / epsilon)
    assert subset.cost >= min(cost_of(keep) for keep in subsets(len(norms))) * (1 - 1e-9)
    costliest_first = np.argsort(-costs, kind="stable")
    for count in range(len(norms)):
        keep = np.ones(len(norms), bool)
        keep[costliest_first[:count]] = False
        assert subset.cost <= cost_of(keep) * (1 + 1e-9)
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
