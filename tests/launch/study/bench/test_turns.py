"""Several turns against single ones: the same tokens, and slots that are counted by hand."""

import asyncio

import numpy as np
import pytest

from launch.study.bench.turns import (
    CONTESTANTS,
    MOST_TURNS,
    TOOL_TOKENS,
    Slots,
    plans,
    play_all,
    summed_up,
)
from rollout.types import Completion, VersionSpan


class Clock:
    """A clock that is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_idle_is_what_a_play_that_waits_could_have_filled():
    clock = Clock()
    slots = Slots(2, 3, clock)
    one, other = slots.request(), slots.request()
    one.__enter__()
    other.__enter__()
    clock.now = 4.0  # Both slots are filled: 8 of 8.
    other.__exit__(None, None, None)
    clock.now = 7.0  # Two of three plays wait, one slot of two is filled: 3 of 6.
    one.__exit__(None, None, None)
    slots.finished()
    slots.finished()
    clock.now = 9.0  # The last play could fill one slot, and waits: 0 of 2.
    slots.finished()
    clock.now = 20.0  # Nothing is left.
    assert slots.idle_share == pytest.approx(1 - 11 / 16)


class Engine:
    """Answers at once, or when it is another's turn."""

    def __init__(self):
        self.asked = []

    async def generate(self, token_ids, *, max_tokens, sampling, seed):
        self.asked.append((len(token_ids), max_tokens, seed))
        await asyncio.sleep(0)
        return Completion(
            np.ones(max_tokens, np.int32), np.zeros(max_tokens, np.float32), "length",
            (VersionSpan(0, max_tokens, 0),), 0,
        )  # fmt: skip


class Tokenizer:
    def decode(self, token_ids, **settings):
        return ""


def test_both_sample_the_same_tokens_and_only_turns_wait(monkeypatch):
    monkeypatch.setattr("launch.study.bench.turns.MOST_WAIT_SECONDS", 0.01)
    plays = plans(20, 50, (8, 32), seed=3)
    assert {len(plan.tokens) for plan in plays} == set(range(1, MOST_TURNS + 1))
    measured = {}
    for name in CONTESTANTS:
        engine = Engine()
        found = asyncio.run(play_all(name, engine, Tokenizer(), plays, num_slots=4))
        assert found["tokens"] == sum(sum(plan.tokens) for plan in plays)
        calls = len(plays) if name == "single" else sum(len(plan.tokens) for plan in plays)
        assert found["requests"] == calls
        assert found["prefill_tokens"] == sum(size for size, *_ in engine.asked)
        assert len({seed for *_, seed in engine.asked}) == len(engine.asked) == calls
        measured[name] = [found]
    assert measured["turns"][0]["idle_slots_share"] > 0
    assert summed_up(measured)["ratio"] == pytest.approx(
        measured["single"][0]["seconds"] / measured["turns"][0]["seconds"]
    )


def test_a_turn_sees_what_came_before_and_the_tool(monkeypatch):
    monkeypatch.setattr("launch.study.bench.turns.MOST_WAIT_SECONDS", 0.0)
    plan = next(plan for plan in plans(50, 50, (8, 32), seed=0) if len(plan.tokens) == 3)
    engine = Engine()
    asyncio.run(play_all("turns", engine, Tokenizer(), [plan], num_slots=1))
    first, second, third = plan.tokens
    start = len(plan.prompt)
    assert [ask[:2] for ask in engine.asked] == [
        (start, first),
        (start + first + TOOL_TOKENS, second),
        (start + first + second + 2 * TOOL_TOKENS, third),
    ]
