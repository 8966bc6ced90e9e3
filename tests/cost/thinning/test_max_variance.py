"""Subsets of largest variance against all subsets."""

from itertools import combinations

import numpy as np
import pytest

from cost.thinning.max_variance import max_variance_subsets


@pytest.mark.parametrize("seed", range(60))
def test_no_subset_has_a_larger_variance(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 15))
    number = int(rng.integers(1, size + 3))
    values = rng.normal(size=size) * 10.0 ** rng.integers(-3, 4)
    if seed % 3 == 0:
        values = np.round(values, 0)  # ties
    chosen = max_variance_subsets(values, np.zeros(size, dtype=int), number)
    number = min(number, size)
    assert chosen.sum() == number
    best = max(np.var(values[list(items)]) for items in combinations(range(size), number))
    assert np.var(values[chosen]) == pytest.approx(best, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("seed", range(10))
def test_groups_do_not_see_each_other_in_any_order(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat([7, 3, 11, 2], [1, 5, 8, 2]))
    values = rng.normal(size=len(groups))
    chosen = max_variance_subsets(values, groups, 3)
    for group in (7, 3, 11, 2):
        here = groups == group
        alone = max_variance_subsets(values[here], np.zeros(here.sum(), dtype=int), 3)
        np.testing.assert_array_equal(chosen[here], alone)


def test_a_large_offset_does_not_drown_the_differences():
    values = 1e9 + np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    chosen = max_variance_subsets(values, np.zeros(5, dtype=int), 2)
    assert chosen.tolist() == [True, False, False, False, True]


def test_nothing_and_refusal():
    assert max_variance_subsets(np.zeros(0), np.zeros(0, dtype=int), 2).shape == (0,)
    with pytest.raises(ValueError, match=r"^size must be at least 1, got 0"):
        max_variance_subsets(np.ones(2), np.zeros(2, dtype=int), 0)
