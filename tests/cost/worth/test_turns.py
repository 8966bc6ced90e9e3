"""What turns are expected to add, and what each price makes of it."""

from dataclasses import replace

import numpy as np
import pytest

from cost.prices.flops import FlopsPrice
from cost.prices.seconds import SecondsPrice
from cost.prices.tokens import TokenPrice
from cost.prompts import TurnsTaken, Visit, prompt_pool
from cost.types import BatchSpending, LengthReport
from cost.worth.turns import TurnCounts, turns_taken

POOL = prompt_pool(np.full(3, 10), ["a"] * 3, 100)
LENGTHS = np.array([40.0, 40.0, 40.0])
CACHED = TurnsTaken(
    np.array([0.0, 6, 12]), np.array([0.0, 6, 12]), np.zeros(3), np.array([0.0, 0.5, 2])
)
UNCACHED = replace(CACHED, prefill_tokens=np.array([0.0, 40, 90]))


def report_of(prompt=0, prompt_tokens=10, prefill_tokens=10, lengths=(20, 20), **turns):
    size = len(lengths)
    none = np.zeros(size, int)
    return LengthReport(
        0, prompt, prompt_tokens, prefill_tokens, np.array(lengths), none > 0, np.ones(size), none,
        np.ones(size), none, 1.0, 0, **{name: np.array(value) for name, value in turns.items()},
    )  # fmt: skip


def visit(prompt, **turns):
    return Visit(report_of(prompt, **turns), 1.0, np.ones(2, bool), np.zeros(2), np.ones(2))


def test_single_turns_are_nothing_to_expect():
    counts = TurnCounts()
    state = counts.initial_state(POOL)
    assert counts.update(state, POOL, [visit(0), visit(1)]) is state
    assert counts.estimate(state, POOL) is None


def test_prompts_are_told_apart_by_what_their_own_turns_took():
    counts = TurnCounts()
    state = counts.initial_state(POOL)
    for _ in range(20):
        visits = [
            visit(0, num_turns=[1, 3], environment_tokens=[0, 8], turn_prefill_tokens=[0, 60],
                  tool_seconds=[0.0, 2.0]),
            visit(1),
        ]  # fmt: skip
        state = counts.update(state, POOL, visits)
    found = counts.estimate(state, POOL)
    assert found.environment_tokens[0] == pytest.approx(4, rel=0.3)
    assert found.prefill_tokens[0] == pytest.approx(30, rel=0.3)
    assert found.tool_seconds[0] == pytest.approx(1, rel=0.3)
    for values in (found.environment_tokens, found.prefill_tokens, found.tool_seconds):
        assert values[1] < 0.3 * values[0] and values[1] < values[2] < values[0]
    assert (found.inherited_tokens == 0).all()
    # What was seen once is not what is expected for ever: visits of single turns count as well.
    for _ in range(30):
        state = counts.update(state, POOL, [visit(0)])
    assert counts.estimate(state, POOL).environment_tokens[0] < 0.5


def test_a_batch_s_turns_are_those_of_its_reports_end_to_end():
    assert turns_taken([report_of(), report_of(1)]) is None
    played = report_of(
        num_turns=[1, 3], environment_tokens=[0, 8], turn_prefill_tokens=[0, 60],
        tool_seconds=[0.0, 2.0], inherited_tokens=[0, 5],
    )  # fmt: skip
    found = turns_taken([report_of(), played])
    assert found.prefill_tokens.tolist() == [0, 0, 0, 60]
    assert found.environment_tokens.tolist() == [0, 0, 0, 8]
    assert found.inherited_tokens.tolist() == [0, 0, 0, 5]
    assert found.given_tokens.tolist() == [0, 0, 0, 13]
    assert found.tool_seconds.tolist() == [0, 0, 0, 2]


def test_a_token_price_charges_what_is_computed_again_and_the_tool_s_time():
    price = TokenPrice(tool_second_tokens=10)
    assert price.of_turns(POOL.prompt_tokens, LENGTHS, CACHED).tolist() == [0, 5, 20]
    assert price.of_turns(POOL.prompt_tokens, LENGTHS, UNCACHED).tolist() == pytest.approx(
        [0, 5 + 34 / 3, 20 + 26]
    )
    with pytest.raises(ValueError, match=r"price\.tool_second_tokens must not be negative"):
        TokenPrice(tool_second_tokens=-1)


def test_flops_of_prefilled_tokens_are_those_of_any_without_the_head():
    price = FlopsPrice(64, 2, 4, 2, 16, 128, 1000, trained_share=0.0)
    head = 2 * 64 * 1000
    cached = price.of_turns(POOL.prompt_tokens, LENGTHS, CACHED)
    np.testing.assert_allclose(cached, -head * CACHED.environment_tokens)
    again = price.of_turns(POOL.prompt_tokens, LENGTHS, UNCACHED) - cached
    # A token in the middle of the response, its head left out.
    middle = price.of_drawing(np.array([10]), np.array([20.5]), 1) - price.of_drawing(
        np.array([10]), np.array([19.5]), 1
    )
    np.testing.assert_allclose(again, [0, 34 * (middle[0] - head), 78 * (middle[0] - head)],
                               rtol=0.02)  # fmt: skip


def test_seconds_of_tools_are_fitted_where_they_hold_engines_up():
    price, rng = SecondsPrice(skip_batches=0), np.random.default_rng(0)
    state = price.initial_state(POOL)
    truth = np.array([0.0, 1e-3, 4e-3, 0.3])
    for _ in range(60):
        responses, prefill, tokens = rng.integers(50, 200, 3) * (1, 40, 60)
        tool = rng.uniform(5, 200)
        seconds = float(truth @ [responses, prefill, tokens, tool])
        spending = BatchSpending(
            int(responses), int(prefill), int(tokens), seconds, 10, 100, 500, 1.0, tool
        )
        state = price.update_spending(state, spending)
    assert price.metrics(state)["cost/price_tool_seconds_per_second"] == pytest.approx(0.3, rel=0.2)
    found = price.of_turns(POOL.prompt_tokens, LENGTHS, UNCACHED, state)
    expected = 1e-3 * UNCACHED.prefill_tokens - 4e-3 * UNCACHED.environment_tokens
    expected += 0.3 * UNCACHED.tool_seconds
    np.testing.assert_allclose(found, expected, rtol=0.25, atol=1e-3)
