"""Groups into optimiser steps, responses into rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.partition import plan_rows, split_groups


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


@settings(max_examples=200)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 5), st.integers(50, 120))
def test_rows_cover_every_item_once_within_budget_evenly_over_ranks(lengths, num_ranks, row_tokens):
    plan = plan_rows(lengths, num_ranks, row_tokens)
    assert len(plan) == num_ranks
    assert len({len(rows) for rows in plan}) == 1
    rows = [row for rank_rows in plan for row in rank_rows]
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= row_tokens for row in rows)
    loads = [sum(lengths[item] for row in rank_rows for item in row) for rank_rows in plan]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    # First fit leaves no two rows of a rank that would fit into one.
    for rank_rows in plan:
        used = [sum(lengths[item] for item in row) for row in rank_rows if row]
        assert len(used) < 2 or sum(sorted(used)[:2]) > row_tokens
    assert plan == plan_rows(lengths, num_ranks, row_tokens)
    if not lengths:
        assert plan == [[] for _ in range(num_ranks)]


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"^learner\.row_tokens .*91 tokens, got 90"):
        plan_rows([3, 91], 2, 90)
