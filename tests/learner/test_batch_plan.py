"""Groups into optimiser steps, and how even the ranks' work is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batch_plan import MinibatchPlan, join_groups, rank_balance, split_groups


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 99))
def test_split_covers_every_group_once_in_even_parts(num_groups, num_minibatches, seed):
    if num_minibatches > num_groups:
        with pytest.raises(ValueError, match=r"^learner\.num_minibatches"):
            split_groups(num_groups, num_minibatches, np.random.default_rng(seed))
        return
    parts = split_groups(num_groups, num_minibatches, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_groups))
    sizes = [len(part) for part in parts]
    assert len(parts) == num_minibatches and max(sizes) - min(sizes) <= 1
    again = split_groups(num_groups, num_minibatches, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_split_puts_every_group_into_every_part_equally_often():
    counts = np.zeros((6, 3))
    rng = np.random.default_rng(0)
    for _ in range(3000):
        for part, groups in enumerate(split_groups(6, 3, rng)):
            counts[groups, part] += 1
    assert np.abs(counts / 3000 - 1 / 3).max() < 0.04


@pytest.mark.parametrize(("num_plain", "num_minibatches", "num_exploring"), [(5, 2, 1), (4, 3, 4)])
def test_exploring_groups_join_the_cuts_so_that_both_means_are_those_of_the_batch(
    num_plain, num_minibatches, num_exploring
):
    rng = np.random.default_rng(0)
    exploring = num_plain + np.arange(num_exploring)
    shares = np.zeros((num_plain + num_exploring, num_minibatches))
    for _ in range(6000):
        parts = split_groups(num_plain, num_minibatches, rng)
        joined = join_groups(parts, exploring, rng)
        assert sorted(np.concatenate(joined).tolist()) == list(range(num_plain + num_exploring))
        for m, (part, whole) in enumerate(zip(parts, joined, strict=True)):
            assert np.array_equal(whole[: len(part)], part)
            shares[whole, m] += 1 / len(part) / 6000
    # A group counts 1 / P in the mean over the cuts, plain or exploring, in each optimiser step.
    assert np.abs(shares * num_plain - 1).max() < 0.08


def test_without_exploring_groups_the_parts_stay_as_they_are():
    parts = split_groups(7, 3, np.random.default_rng(0))
    joined = join_groups(parts, np.zeros(0, np.int64), np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(parts, joined, strict=True))
    assert join_groups([], np.zeros(0, np.int64), np.random.default_rng(0)) == []


def test_balance_is_mean_over_largest_work():
    def plans(*works):
        return [MinibatchPlan(num_groups=1, rows=(), work=work) for work in works]

    assert rank_balance([plans(30.0, 60.0), plans(20.0, 20.0)]) == 130 / 160
    assert np.isnan(rank_balance([]))
