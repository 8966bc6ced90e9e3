"""Groups into optimiser steps, and how even the ranks' work is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost.types import LengthReport, Selection
from learner.batch_plan import (
    BatchPlanner,
    MinibatchPlan,
    join_groups,
    rank_balance,
    split_groups,
)
from learner.config import LearnerConfig
from learner.partition import Work
from rollout.types import GroupRef


@given(st.integers(1, 60), st.integers(0, 8), st.integers(0, 99))
def test_split_covers_every_group_once_in_even_parts(num_groups, num_minibatches, seed):
    if not 1 <= num_minibatches <= num_groups:
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


def group_of(ticket_id, lengths, prompt_tokens=6):
    size = len(lengths)
    none = np.zeros(size, dtype=np.int64)
    report = LengthReport(
        ticket_id=ticket_id, prompt_index=0, prompt_tokens=prompt_tokens, prefill_tokens=0,
        lengths=np.array(lengths, dtype=np.int64), truncated=none > 0, rewards=np.zeros(size),
        status=none, surprise=np.zeros(size), answer_codes=none, engine_seconds=0.0, version=0,
    )  # fmt: skip
    return GroupRef(report, None)


def selection_of(group, keep, exploring=False):
    kept = np.array(keep, dtype=bool)
    ones = np.ones(len(kept))
    return Selection(group.report.ticket_id, kept, 0.5 * kept, ones, ones, exploring=exploring)


def planned(groups, selections, num_ranks=2, **settings):
    config = LearnerConfig(**{"row_tokens": 24} | settings)
    planner = BatchPlanner(config, num_ranks, seed=1, work=Work())
    return planner.plan(groups, selections, step=3, epoch=0)


def test_a_plan_has_what_was_kept_once_and_counts_plain_groups():
    """The empty one is a group like any other, and an exploring one is none."""
    lengths = [[4, 9, 2], [], [18, 1], [5, 5, 5], [7, 7]]
    keeps = [[True, False, True], [], [True, True], [False] * 3, [True, True]]
    groups = [group_of(k, of_group) for k, of_group in enumerate(lengths)]
    selections = [
        selection_of(group, keep, exploring=k == 4)
        for k, (group, keep) in enumerate(zip(groups, keeps, strict=True))
    ]
    # A clipping may take all of a weight.
    selections[2].weight[1] = 0.0
    steps = planned(groups, selections, num_minibatches=2)
    assert [[plan.num_groups for plan in ranks] for ranks in steps] == [[2, 2], [2, 2]]
    rows = [row for ranks in steps for plan in ranks for row in plan.rows]
    found = sorted(response for row in rows for response in row)
    assert found == [(0, 0), (0, 2), (2, 0), (4, 0), (4, 1)]
    for row in rows:
        assert 6 * len({k for k, _ in row}) + sum(lengths[k][j] for k, j in row) <= 24


@pytest.mark.parametrize("num_plain", [0, 1, 2, 5])
def test_a_batch_of_few_groups_has_as_many_steps(num_plain):
    groups = [group_of(k, [3]) for k in range(num_plain)]
    steps = planned(groups, [selection_of(group, [True]) for group in groups], num_minibatches=3)
    assert len(steps) == min(num_plain, 3)
    assert sum(ranks[0].num_groups for ranks in steps) == num_plain


@pytest.mark.parametrize(("shared", "num_rows"), [(True, 1), (False, 2)])
def test_responses_that_share_their_prompt_need_less_room(shared, num_rows):
    """A prompt of 6 and responses of 6 and 9: 21 tokens, or 27 with the prompt twice."""
    group = group_of(0, [6, 9])
    [[plan]] = planned([group], [selection_of(group, [True, True])], 1, shared_prefix=shared)
    assert len(plan.rows) == num_rows
    assert plan.work == (21 if shared else 27)
