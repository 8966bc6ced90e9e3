"""Calls wait for a thread without a deadline, unless none will ever come back."""

import asyncio
import contextvars
import threading
import time

import pytest

from rollout.clocks import limited
from rollout.threads import HeldError, Threads

CALLER = contextvars.ContextVar("caller")


def test_a_call_is_as_any_other():
    async def scenario():
        threads = Threads("test", 2, may_hang=True)
        CALLER.set("here")
        assert await threads.call(lambda x, *, y: (CALLER.get(), x + y), 1, y=2) == ("here", 3)
        with pytest.raises(ZeroDivisionError):
            await threads.call(lambda: 1 / 0)

    asyncio.run(scenario())


def test_the_wait_for_a_thread_is_no_part_of_a_deadline():
    async def in_time(threads, seconds):
        async with limited(1.0):
            return await threads.call(lambda: time.sleep(seconds) or "done")

    async def scenario():
        threads = Threads("test", 2, may_hang=True)
        assert await asyncio.gather(*(in_time(threads, 0.2) for _ in range(20))) == ["done"] * 20
        with pytest.raises(TimeoutError):
            await in_time(threads, 2.0)

    asyncio.run(scenario())


def test_a_call_that_is_given_up_before_its_turn_is_never_made():
    made = []

    async def scenario():
        threads, let_go = Threads("test", 1, may_hang=True), threading.Event()
        first = asyncio.create_task(threads.call(let_go.wait, 20))
        second = asyncio.create_task(threads.call(made.append, 2))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        let_go.set()
        assert await first
        await threads.call(made.append, 3)

    asyncio.run(scenario())
    assert made == [3]


def test_where_every_thread_is_kept_for_good_calls_are_refused_until_one_comes_back():
    async def scenario():
        threads, let_go = Threads("test", 2, may_hang=True), threading.Event()
        kept = [asyncio.create_task(threads.call(let_go.wait, 20)) for _ in range(2)]
        await asyncio.sleep(0.05)
        queued = asyncio.create_task(threads.call(abs, -1))
        kept[0].cancel()
        await asyncio.wait([queued], timeout=0.1)
        assert not queued.done(), "one caller still waits, so that its thread comes back"
        kept[1].cancel()
        with pytest.raises(HeldError, match="all 2 threads for functions are kept by calls"):
            await asyncio.wait_for(queued, 10)
        with pytest.raises(HeldError):
            await asyncio.wait_for(threads.call(abs, -2), 10)
        let_go.set()
        await asyncio.sleep(0.05)
        assert await threads.call(abs, -3) == 3

    asyncio.run(scenario())


def test_what_always_ends_is_waited_for():
    async def scenario():
        threads, let_go = Threads("test", 1, may_hang=False), threading.Event()
        kept = asyncio.create_task(threads.call(let_go.wait, 20))
        await asyncio.sleep(0.05)
        kept.cancel()
        queued = asyncio.create_task(threads.call(abs, -1))
        await asyncio.wait([queued], timeout=0.1)
        assert not queued.done()
        let_go.set()
        assert await queued == 1

    asyncio.run(scenario())
