"""Responses into rows, rows onto ranks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.prices.flops import FlopsPrice
from learner.partition import Work, plan_rows, work_of_rows

ATTENTION = Work(token=10.0, loss_token=3.0, pair=0.5)


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


GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(0, 20), min_size=1, max_size=9)), max_size=12
)


def items_of(groups):
    prompts = [(k, prompt) for k, (prompt, responses) in enumerate(groups) for _ in responses]
    lengths = [prompt + response for prompt, responses in groups for response in responses]
    return lengths, prompts


def tokens_of(row, lengths, prompts):
    """Counted from the definition: each prompt of the row once, and the responses."""
    once = {prompts[item] for item in row}
    return sum(size for _, size in once) + sum(lengths[i] - prompts[i][1] for i in row)


def works_of(plan, lengths, prompts, work):
    return [work_of_rows(rows, lengths, prompts=prompts, work=work) for rows in plan]


@settings(max_examples=200)
@given(GROUPS, st.integers(1, 5), st.integers(50, 120), st.sampled_from([Work(), ATTENTION]))
def test_shared_prompts_lie_side_by_side_and_count_once(groups, num_ranks, row_tokens, work):
    lengths, prompts = items_of(groups)
    plan = plan_rows(lengths, num_ranks, row_tokens, prompts=prompts, work=work)
    assert len(plan) == num_ranks and len({len(rows) for rows in plan}) == 1
    rows = [row for rank_rows in plan for row in rank_rows]
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert tokens_of(row, lengths, prompts) <= row_tokens
        order = [prompts[item][0] for item in row]
        assert order == sorted(order)
    if num_ranks == 1:
        # A group is split only where it does not fit a row, and then into as few as first fit says.
        for k, (prompt, responses) in enumerate(groups):
            holding = sum(any(prompts[item][0] == k for item in row) for row in rows)
            assert holding == 1 or prompt + sum(responses) > row_tokens
            assert holding <= 1 + 2 * sum(responses) / (row_tokens - prompt)
    assert plan == plan_rows(lengths, num_ranks, row_tokens, prompts=prompts, work=work)


@settings(max_examples=200)
@given(GROUPS, st.integers(2, 5), st.integers(50, 120))
def test_no_single_response_that_moves_would_lower_the_most_work(groups, num_ranks, row_tokens):
    lengths, prompts = items_of(groups)
    plan = plan_rows(lengths, num_ranks, row_tokens, prompts=prompts, work=ATTENTION)
    works = works_of(plan, lengths, prompts, ATTENTION)
    if not lengths or max(works) <= 1.005 * sum(works) / len(works):
        return
    most, least = works.index(max(works)), works.index(min(works))
    for row in plan[most]:
        for item in row:
            number, prompt = prompts[item]
            response = ATTENTION.of_response(prompt, lengths[item] - prompt)
            alone = [prompts[other][0] for other in row].count(number) == 1
            left = works[most] - response - alone * ATTENTION.of_prompt(prompt)
            # With a copy of its prompt; where one is there already, it has no room.
            grown = works[least] + response + ATTENTION.of_prompt(prompt)
            assert max(left, grown) >= works[most] * (1 - 1e-6)


def test_ranks_get_equal_work_not_equal_tokens():
    """Long contexts cost more than their tokens say."""
    lengths = [100] * 4 + [10] * 40
    prompts = [(i, 0) for i in range(len(lengths))]
    quadratic = Work(token=1.0, pair=0.1)
    by_tokens = plan_rows(lengths[:2] + lengths[4:], 3, 200, prompts=prompts[:42])
    assert max(map(len, by_tokens)) > 0
    plan = plan_rows(lengths, 2, 200, prompts=prompts, work=quadratic)
    works = works_of(plan, lengths, prompts, quadratic)
    assert max(works) / (sum(works) / 2) < 1.01
    # Three long ones against one and all the short ones: equal work, far from equal tokens.
    lengths = [100] * 3 + [10] * 60
    prompts = [(i, 0) for i in range(len(lengths))]
    tokens = [
        [sum(lengths[i] for row in rows for i in row) for rows in plan_rows(
            lengths, 2, 200, prompts=prompts, work=work)]
        for work in (Work(), quadratic)
    ]  # fmt: skip
    assert max(tokens[0]) - min(tokens[0]) <= 10 < 50 < max(tokens[1]) - min(tokens[1])


def test_a_group_is_shared_out_where_that_is_faster():
    """One group of 8 long responses on 2 ranks: half each, and the prompt twice."""
    lengths, prompts = [10 + 100] * 8, [(0, 10)] * 8
    plan = plan_rows(lengths, 2, 1000, prompts=prompts)
    assert [sorted(map(len, rows)) for rows in plan] == [[4], [4]]
    # Where no response comes off more cheaply than its copy of the prompt, the group stays whole.
    lengths, prompts = [100 + 10] * 2, [(0, 100)] * 2
    assert sorted(len(rows[0]) for rows in plan_rows(lengths, 2, 1000, prompts=prompts)) == [1, 1]
    lengths, prompts = [100 + 1, 100], [(0, 100)] * 2
    assert sorted(len(rows[0]) for rows in plan_rows(lengths, 2, 1000, prompts=prompts)) == [0, 2]


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"^learner\.row_tokens .*91 tokens, got 90"):
        plan_rows([3, 91], 2, 90)


def test_work_is_the_forward_pass_that_the_price_counts(tmp_path):
    shape = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 91,
        "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 12,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    work = Work.of_model(str(tmp_path))
    price = FlopsPrice.of_model(str(tmp_path))
    for prompt, response in ((1, 1), (30, 200), (500, 64)):
        forward = work.of_prompt(prompt) + work.of_response(prompt, response)
        trained = price.of_training(np.array([prompt]), np.array([response]))
        assert 3 * forward == pytest.approx(trained[0], rel=1e-12)
    assert Work.of_model(str(tmp_path / "nowhere")) == Work()


@pytest.mark.parametrize("changes", [{"token": 0.0}, {"loss_token": -1.0}, {"pair": -1.0}])
def test_work_out_of_range_is_refused(changes):
    with pytest.raises(ValueError, match=r"^work must be positive"):
        Work(**changes)
