"""Deadlines of plays run while something is done, and while nothing but queues they do not."""

import asyncio

import pytest

from launch.study.simulation import clock
from rollout.clocks import between_calls, limited, queueing
from rollout.progress import StalledError


def test_time_at_the_engine_is_not_the_environment_s():
    async def scenario(*stretches):
        async with between_calls(60.0) as excepted:
            for own, excepted_seconds in stretches:
                await asyncio.sleep(own)
                with excepted():
                    await asyncio.sleep(excepted_seconds)
        return asyncio.get_running_loop().time()

    assert clock.run(scenario(*[(50, 1000)] * 5)) == 5250
    for stretches in ([(61, 0)], [(50, 1000), (61, 0)]):
        with pytest.raises(StalledError, match="environment took longer than 60 s"):
            clock.run(scenario(*stretches))


def test_calls_that_overlap_are_excepted_until_the_last_one_ends():
    async def scenario(rest):
        async with between_calls(60.0) as excepted:

            async def call(seconds):
                with excepted():
                    await asyncio.sleep(seconds)

            await asyncio.gather(call(10), call(500))
            await asyncio.sleep(rest)

    clock.run(scenario(59))
    with pytest.raises(StalledError):
        clock.run(scenario(61))


async def queue(seconds):
    with queueing():
        await asyncio.sleep(seconds)


def test_what_queues_loses_no_time_and_gains_none():
    async def scenario(*stretches):
        async with between_calls(90.0), limited(60.0):
            for own, queued in stretches:
                await asyncio.sleep(own)
                await asyncio.gather(queue(queued), queue(queued / 2))
        return asyncio.get_running_loop().time()

    assert clock.run(scenario(*[(11, 1000)] * 5)) == 5055
    with pytest.raises(TimeoutError) as ended:
        clock.run(scenario(*[(11, 1000)] * 6))
    assert not isinstance(ended.value, StalledError)


def test_a_call_of_the_engine_gives_all_time_again_whatever_queued_before():
    async def scenario():
        async with between_calls(60.0) as excepted:
            for _ in range(3):
                await asyncio.sleep(29)
                await queue(100)
                await asyncio.sleep(29)
                with excepted():
                    await asyncio.sleep(100)
            await asyncio.sleep(61)

    with pytest.raises(StalledError):
        clock.run(scenario())


def test_what_is_cleaned_up_after_the_deadline_may_queue_too():
    async def scenario():
        loop = asyncio.get_running_loop()
        with pytest.raises(StalledError):
            async with between_calls(60.0):
                try:
                    await asyncio.sleep(100)
                finally:
                    await queue(10)
        return loop.time()

    assert clock.run(scenario()) == 70


def test_a_task_that_outlives_a_deadline_has_none_from_it():
    async def scenario():
        async with limited(60.0):
            later = asyncio.create_task(queue_later())
        await later

    async def queue_later():
        await asyncio.sleep(100)
        await queue(100)

    clock.run(scenario())


def test_without_a_deadline_anybody_may_queue():
    clock.run(queue(10))
