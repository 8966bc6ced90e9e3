"""Deadlines in simulated time: what they follow, and what sets them back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.run.deadlines import FACTOR, Ceiling, Deadlines, silence_limit, while_heard
from launch.study.simulation.clock import run

FLOOR = 120


def deadlines():
    async def reached(who, how):
        return RuntimeError(f"{who} {how}")

    return Deadlines(FLOOR, reached)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 1e5))
def test_a_deadline_lies_above_all_that_was_measured_and_between_its_bounds(took, most):
    made, ceiling = deadlines(), Ceiling("learner.deadline", most)
    assert made.seconds("learners", "update", ceiling) == most
    for seconds in took:
        made.took("learners", "update", seconds)
    found = made.seconds("learners", "update", ceiling)
    assert found == min(most, max(FLOOR, FACTOR * max(took)))
    assert made.seconds("learners", "save", ceiling) == most


async def work(made, seconds, *, ceiling=3600.0, follows=True):
    most = Ceiling("learner.deadline", ceiling)
    async with made.limit("learners", "update", most, follows=follows):
        await asyncio.sleep(seconds)


def test_what_took_three_seconds_may_take_the_floor_and_no_longer():
    async def scenario():
        made = deadlines()
        await work(made, 3)
        await work(made, FLOOR - 10)
        made = deadlines()
        await work(made, 3)
        with pytest.raises(RuntimeError) as found:
            await work(made, FLOOR + 10)
        assert str(found.value) == (
            "learners took longer for update than 120 s, where the longest before took 3.0 s"
        )

    run(scenario())


@pytest.mark.parametrize("measured", [False, True])
def test_without_measurement_the_setting_counts_and_is_named(measured):
    async def scenario():
        made = deadlines()
        if measured:
            await work(made, 3)
        with pytest.raises(RuntimeError, match=r"^learners .* than learner\.deadline = 500$"):
            await work(made, 501, ceiling=500, follows=not measured)

    run(scenario())


def test_what_is_awaited_may_have_a_deadline_that_says_more():
    async def scenario():
        with pytest.raises(TimeoutError, match=r"^the engines$"):
            async with deadlines().limit("learners", "update", Ceiling("", 10)):
                raise TimeoutError("the engines")

    run(scenario())


def test_a_batch_is_late_only_when_nothing_is_heard():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with while_heard(3, 10, lambda: loop.time()):
            await asyncio.sleep(1000)
        told = r"^batch 3: .* for loop\.batch_deadline_seconds = 10$"
        with pytest.raises(TimeoutError, match=told):
            async with while_heard(3, 10, lambda: 0):
                await asyncio.sleep(1000)

    run(scenario())


@pytest.mark.parametrize("seconds", [0.5, 20, 1000])
def test_news_begin_the_deadline_anew_and_only_silence_ends_it(seconds):
    async def scenario():
        loop, news = asyncio.get_running_loop(), []

        async def tell():
            for _ in range(10):
                await asyncio.sleep(seconds * 0.7)
                news.append(1)

        telling = asyncio.create_task(tell())
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with silence_limit(seconds, lambda: len(news)):
                await asyncio.sleep(1e6)
        await telling
        assert 7 * seconds + seconds <= loop.time() - began <= 7 * seconds + 1.2 * seconds

    run(scenario())


def test_time_in_which_this_process_stood_still_does_not_count():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with silence_limit(60):
            await asyncio.sleep(10)
            # As after SIGSTOP and SIGCONT: an hour has passed, and nobody could look.
            loop._jumping.now += 3600
            await asyncio.sleep(20)

    run(scenario())


def test_what_goes_on_inside_ends_with_its_own_error():
    async def scenario():
        with pytest.raises(KeyError):
            async with silence_limit(60):
                raise KeyError("own")

    run(scenario())
