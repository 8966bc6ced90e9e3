"""Waiting takes no time, and nothing waits for ever."""

import asyncio
import gc
import signal
import time

import pytest

from launch.cli.signals import Interrupted
from launch.run.clocks import GenerationClock, Laps
from launch.study.simulation import clock


def test_sleeps_and_timeouts_are_in_simulated_seconds():
    async def main():
        loop, laps, order = asyncio.get_running_loop(), Laps(), []

        async def sleeper(seconds):
            await asyncio.sleep(seconds)
            order.append((seconds, loop.time()))

        await asyncio.gather(sleeper(3600.0), sleeper(0.25), sleeper(7.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(400.0):
                await asyncio.Event().wait()
        return order, laps.lap()

    began = time.monotonic()
    order, lap = clock.run(main())
    assert order == [(0.25, 0.25), (7.0, 7.0), (3600.0, 3600.0)]
    assert lap == 4000.0
    assert time.monotonic() - began < 5


def test_the_loops_clocks_follow():
    async def main():
        generation = GenerationClock()
        generation.begin(0, 1)
        await asyncio.sleep(5)
        generation.end(0)
        await asyncio.sleep(2)
        return generation.take_total()

    assert clock.run(main()) == 5


def test_threads_are_waited_for_and_take_no_time():
    async def main():
        loop = asyncio.get_running_loop()
        alarm = asyncio.create_task(asyncio.sleep(1.0))
        returned = await asyncio.to_thread(lambda: (time.sleep(0.05), "done")[1])
        assert not alarm.done() and loop.time() == 0.0
        await alarm
        return returned, loop.time()

    assert clock.run(main()) == ("done", 1.0)


def test_a_deadlock_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(clock.StuckError, match="never happen"):
        clock.run(main())


def test_a_signal_that_comes_into_a_task_is_told_of_once(caplog):
    async def struck():
        await asyncio.sleep(1)
        raise Interrupted(signal.SIGTERM)

    async def main():
        await asyncio.gather(struck(), asyncio.sleep(5))

    with pytest.raises(Interrupted):
        clock.run(main())
    gc.collect()
    assert not caplog.records
