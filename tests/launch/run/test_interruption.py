"""Signals that come before, in and behind an event loop that listens to them."""

import asyncio
import signal

import pytest

from launch.cli.signals import SIGNALS, Interrupted, end, handled, interrupt
from launch.run import interruption
from launch.run.interruption import Interruption, StoppedError, stopped, until_signal


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_is_given_up_says_where():
    with (
        pytest.raises(StoppedError, match=r"^stopped by SIGTERM while it began$") as found,
        stopped("while it began"),
    ):
        raise Interrupted(signal.SIGTERM)
    assert found.value.status == 143


@pytest.mark.parametrize("number", SIGNALS)
def test_work_is_given_up_and_what_comes_behind_it_is_a_second_signal(number):
    ended = []

    async def work():
        try:
            signal.raise_signal(number)
            await asyncio.sleep(100)
        finally:
            ended.append(number)

    with handled(interrupt):
        with pytest.raises(StoppedError, match="before it was done") as found:
            asyncio.run(until_signal(work(), "before it was done"))
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == [end, end]
    assert (ended, found.value.status) == ([number], 128 + number)


def test_behind_a_loop_that_heard_nothing_signals_are_handled_as_before():
    async def nothing():
        with Interruption.listening():
            pass

    with handled(interrupt):
        asyncio.run(nothing())
        assert {signal.getsignal(each) for each in SIGNALS} == {interrupt}


def test_a_second_signal_ends_the_process_also_while_something_holds_the_loop_up(monkeypatch):
    ended = []
    monkeypatch.setattr(interruption, "end", ended.append)

    async def work():
        with Interruption.listening() as found:
            # Nothing is awaited in between.
            signal.raise_signal(signal.SIGTERM)
            assert (found.signal, ended) == (signal.SIGTERM, [])
            signal.raise_signal(signal.SIGINT)
            assert ended == [signal.SIGINT]
            async with asyncio.timeout(60):
                await found.wait()

    asyncio.run(work())


def test_work_that_is_given_up_with_whoever_waits_for_it_has_come_to_its_end():
    ended = []

    async def work():
        try:
            await asyncio.sleep(100)
        finally:
            for _ in range(9):
                await asyncio.sleep(0)
            ended.append("work")

    async def main():
        waiting = asyncio.create_task(Interruption().ends(work(), "before it was done"))
        while len(asyncio.all_tasks()) < 4:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert ended == ["work"] and asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
