"""Threads for functions that are not async, such as a user's tool that waits for somebody else.

asyncio's own are little more than the processors; here each play of an engine may wait in one. A
call that waits for a thread queues: no deadline runs (`rollout.clocks`).

Nothing ends a function in a thread: one whose caller has given up keeps its thread until it
returns. Were all of them kept so, calls would queue for good; they are refused instead.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from rollout.clocks import queueing

MOST_AT_A_TIME = 256
"""Further calls wait for a thread. A free one is used again before another begins."""


class HeldError(RuntimeError):
    """There is no thread, nor will there be one."""


class Threads:
    """A number of threads, and the calls that wait for one.

    Args:
        name: What the threads are called.
        most: How many there are at a time.
        may_hang: Whether a function may never return.
    """

    def __init__(self, name: str, most: int, *, may_hang: bool) -> None:
        self._executor = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._most = most
        self._may_hang = may_hang
        self._queued: set[asyncio.Future[None]] = set()
        self._given_up: set[Future[None]] = set()

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function in a thread, as `asyncio.to_thread` does, and return what it returns.

        Raises:
            HeldError: If every thread is kept by a function whose caller has given up.
        """
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()
        taken: Future[None] = Future()
        call = partial(contextvars.copy_context().run, function, *arguments, **named)

        def work() -> Any:
            if not taken.set_running_or_notify_cancel():
                return None
            try:
                loop.call_soon_threadsafe(_settle, begun, None)
                return call()
            finally:
                taken.set_result(None)

        returned = loop.run_in_executor(self._executor, work)
        try:
            with queueing():
                await self._turn(begun)
            return await returned
        except (asyncio.CancelledError, HeldError):
            returned.cancel()
            if not taken.cancel():
                self._give_up(taken)
            raise

    async def _turn(self, begun: asyncio.Future[None]) -> None:
        self._queued.add(begun)
        try:
            self._look()
            await begun
        finally:
            self._queued.discard(begun)

    def _give_up(self, taken: Future[None]) -> None:
        self._given_up.add(taken)
        taken.add_done_callback(self._given_up.discard)
        self._look()

    def _look(self) -> None:
        """Refuse what queues if no thread will ever come back."""
        if not self._may_hang or len(self._given_up) < self._most:
            return
        error = HeldError(
            f"all {self._most} threads for functions are kept by calls that took too long and have "
            "not returned; give the function a time limit of its own, or make it async"
        )
        for begun in tuple(self._queued):
            begun.get_loop().call_soon_threadsafe(_settle, begun, error)


def _settle(begun: "asyncio.Future[None]", error: Exception | None) -> None:
    if not begun.done():
        begun.set_exception(error) if error else begun.set_result(None)


async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function of a user's in a thread, and return what it returns; see `Threads.call`."""
    return await _functions().call(function, *arguments, **named)


@cache
def _functions() -> Threads:
    return Threads("functions", MOST_AT_A_TIME, may_hang=True)
