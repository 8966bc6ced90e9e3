"""Workers that answer in turn: whose time is limited, and whose is not."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from launch.study.simulation.clock import run
from learner.queued_calls import QueuedCalls


class Worker:
    """Answers one call after the other, each after so many seconds."""

    def __init__(self):
        self.lock = asyncio.Lock()

    def ask(self, seconds, error=None):
        async def answer():
            async with self.lock:
                await asyncio.sleep(seconds)
                if error is not None:
                    raise error
                return asyncio.get_running_loop().time()

        return asyncio.create_task(answer())


def limited(seconds, took):
    @asynccontextmanager
    async def limit():
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            yield
        took.append(asyncio.get_running_loop().time() - began)

    return limit()


def test_what_queues_behind_a_long_call_has_its_own_time_and_is_measured_by_it():
    async def scenario():
        workers, calls, took = [Worker(), Worker()], QueuedCalls(), []
        long = asyncio.create_task(calls.wait([w.ask(500) for w in workers], limited(600, took)))
        await asyncio.sleep(1)
        short = asyncio.create_task(calls.wait([w.ask(3) for w in workers], limited(10, took)))
        assert await short == [503, 503]
        await long
        return took

    assert run(scenario()) == [500, 3]


def test_a_call_that_hangs_is_ended_by_its_own_limit_and_those_behind_it_by_theirs():
    async def scenario():
        worker, calls, ended = Worker(), QueuedCalls(), []

        async def wait(seconds, limit):
            try:
                await calls.wait([worker.ask(seconds)], limited(limit, []))
            except TimeoutError:
                ended.append(asyncio.get_running_loop().time())

        # Its worker is stuck for good: what is cancelled here goes on there.
        stuck = asyncio.create_task(worker.lock.acquire())
        await stuck
        await asyncio.gather(wait(1, 100), wait(1, 10))
        return ended

    assert run(scenario()) == [100, 110]


def test_whoever_is_cancelled_leaves_its_call_before_the_others():
    async def scenario():
        worker, calls, took = Worker(), QueuedCalls(), []
        first = asyncio.create_task(calls.wait([worker.ask(500)], limited(600, took)))
        await asyncio.sleep(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await calls.wait([worker.ask(3)], limited(10, took)) == [503]
        return took

    assert run(scenario()) == [500, 3]


def test_a_call_that_hangs_keeps_its_limit_when_nobody_waits_for_it_any_more():
    async def scenario():
        worker, calls = Worker(), QueuedCalls()
        await worker.lock.acquire()
        first = asyncio.create_task(calls.wait([worker.ask(1)], limited(100, [])))
        await asyncio.sleep(1)
        first.cancel()
        with pytest.raises(TimeoutError):
            await calls.wait([worker.ask(1)], limited(10, []))
        return asyncio.get_running_loop().time()

    assert run(scenario()) == 110


def test_an_error_ends_its_own_call_alone():
    async def scenario():
        workers, calls = [Worker(), Worker()], QueuedCalls()
        bad = [workers[0].ask(1, ValueError("bad")), workers[1].ask(5)]
        with pytest.raises(ValueError, match="bad"):
            await calls.wait(bad, limited(10, []))
        return await calls.wait([w.ask(1) for w in workers], limited(10, []))

    assert run(scenario()) == [2, 6]


def test_an_answer_that_is_there_is_not_kept_by_a_call_that_was_noted_before_it():
    """Calls may be asked in one order and waited for in another."""

    async def scenario():
        worker, calls = Worker(), QueuedCalls()
        score, update = worker.ask(2), worker.ask(100)
        later = asyncio.create_task(calls.wait([update], limited(200, [])))
        await asyncio.sleep(0)
        (scored,) = await calls.wait([score], limited(10, []))
        assert asyncio.get_running_loop().time() == 2
        await later
        return scored

    assert run(scenario()) == 2
