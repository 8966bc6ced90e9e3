"""Falling asleep and waking, with something in vLLM's place that remembers what is resident."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.engines.sleeping import Sleep


class Llm:
    """Has weights and a cache, and schedules while both are there, as vLLM 0.32 does."""

    def __init__(self) -> None:
        self.resident, self.schedules = {"weights", "kv_cache"}, True
        self.levels: list[int] = []

    async def sleep(self, level: int, mode: str) -> None:
        assert mode == "keep"
        self.schedules = False
        await asyncio.sleep(0.01)
        self.resident.clear()
        self.levels.append(level)

    async def wake_up(self, tags: list[str]) -> bool:
        assert not self.resident & set(tags)
        await asyncio.sleep(0.001)
        self.resident |= set(tags)
        self.schedules = len(self.resident) == 2
        return self.schedules


@pytest.mark.parametrize(("keeps_weights", "level"), [(False, 2), (True, 1)])
def test_weights_that_nobody_sends_are_kept(keeps_weights: bool, level: int) -> None:
    llm = Llm()
    asyncio.run(Sleep(llm, keeps_weights=keeps_weights).begin())
    assert llm.levels == [level]


def test_room_for_weights_comes_first_and_nothing_is_generated_before_the_cache() -> None:
    async def scenario() -> None:
        llm = Llm()
        sleep = Sleep(llm, keeps_weights=False)
        assert not await sleep.wake_for_weights()
        await sleep.begin()
        assert await sleep.wake_for_weights()
        assert llm.resident == {"weights"} and not llm.schedules
        # A learner that died while it sent is followed by one that sends again.
        assert await sleep.wake_for_weights()
        await sleep.end()
        assert llm.resident == {"weights", "kv_cache"} and llm.schedules
        assert not await sleep.wake_for_weights()

    asyncio.run(scenario())


@given(st.lists(st.sampled_from(["begin", "wake_for_weights", "end"]), max_size=12))
def test_whatever_is_asked_at_once_comes_in_turn(calls: list[str]) -> None:
    async def scenario() -> Llm:
        llm = Llm()
        sleep = Sleep(llm, keeps_weights=False)
        await asyncio.gather(*(getattr(sleep, call)() for call in calls))
        await sleep.end()
        return llm

    llm = asyncio.run(scenario())
    assert llm.schedules and len(llm.levels) <= calls.count("begin")
