"""Deadlines of plays, which stand still while something merely queues.

    play -> between_calls -> limited (one step of a game) -> queueing -> a thread, a sandbox

Whoever lets a call queue says so with `queueing`, and need not know whose clocks are running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar

from rollout.progress import StalledError


class _Clock:
    """A deadline for what goes on around it, and what is left of it."""

    def __init__(self, limit_seconds: float, timeout: asyncio.Timeout) -> None:
        self._limit_seconds = limit_seconds
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._left = limit_seconds
        self._num_stops = 0
        self.over = False
        """Tasks that outlive the block have no deadline from it."""

    @contextmanager
    def stopped(self, *, anew: bool) -> Iterator[None]:
        """Stand still inside, until the last of several has ended; `anew` gives all time again."""
        if self._runs() and not self._num_stops:
            self._left = (self._timeout.when() or 0.0) - self._loop.time()
            self._timeout.reschedule(None)
        self._num_stops += 1
        try:
            yield
        finally:
            self._num_stops -= 1
            if anew:
                self._left = self._limit_seconds
            if self._runs() and not self._num_stops:
                self._timeout.reschedule(self._loop.time() + self._left)

    @property
    def expired(self) -> bool:
        """Whether it has gone off."""
        return self._timeout.expired()

    def _runs(self) -> bool:
        # What is cleaned up after it has gone off may queue too.
        return not self.over and not self.expired


_CLOCKS: ContextVar[tuple[_Clock, ...]] = ContextVar("clocks", default=())
"""Those that run for the task, and for the tasks that it begins."""


@asynccontextmanager
async def _clock(limit_seconds: float) -> AsyncIterator[_Clock]:
    async with asyncio.timeout(limit_seconds) as timeout:
        clock = _Clock(limit_seconds, timeout)
        token = _CLOCKS.set((*_CLOCKS.get(), clock))
        try:
            yield clock
        finally:
            clock.over = True
            _CLOCKS.reset(token)


class LateError(TimeoutError):
    """What was limited took longer; a TimeoutError of its own making is none."""


@asynccontextmanager
async def limited(limit_seconds: float) -> AsyncIterator[None]:
    """Limit what goes on inside, as `asyncio.timeout` does, but for the time that it queues.

    Raises:
        LateError: If it takes longer.
    """
    try:
        async with _clock(limit_seconds) as clock:
            yield
    except TimeoutError as error:
        if not clock.expired:
            raise
        raise LateError(f"took longer than {limit_seconds:g} s") from error


@contextmanager
def queueing() -> Iterator[None]:
    """Stop every clock of whoever calls while what it waits for is somebody else's turn."""
    with ExitStack() as stack:
        for clock in _CLOCKS.get():
            stack.enter_context(clock.stopped(anew=False))
        yield


@asynccontextmanager
async def between_calls(
    limit_seconds: float,
) -> AsyncIterator[Callable[[], AbstractContextManager[None]]]:
    """Limit what goes on inside, but for calls that are excepted.

    Example:
        async with between_calls(60.0) as excepted:
            ...                          # 60 s at most
            with excepted(): await call  # as long as it takes
            ...                          # 60 s at most again

    Raises:
        StalledError: If it takes longer at a stretch.
    """
    try:
        async with _clock(limit_seconds) as clock:
            yield lambda: clock.stopped(anew=True)
    except TimeoutError:
        if not clock.expired:
            raise
        raise StalledError(
            f"the environment took longer than {limit_seconds:g} s between two calls of the engine"
        ) from None
