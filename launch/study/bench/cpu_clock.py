"""Which part of one event loop takes the CPU: seconds of this thread, by the part at work.

task of a part -> its steps count for the part, and so do those of the tasks that it starts
the event loop's own work, timers and callbacks -> REST
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")
REST = "rest"


class CpuClock:
    """Seconds of the thread that made it, by part.

    Args:
        now: The thread's CPU seconds.
    """

    def __init__(self, now: Callable[[], float] = time.thread_time) -> None:
        self._now = now
        self._part = REST
        self._since = now()
        self._seconds: dict[str, float] = {}

    def follow_tasks(self) -> None:
        """Let every task that is started from now on count for the part that starts it."""

        def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
            task = asyncio.Task(self.of(self._part, work), loop=loop, **options)
            # What is cancelled before its first step would be left behind without an end.
            task.add_done_callback(lambda _: work.close())
            return task

        asyncio.get_running_loop().set_task_factory(make)

    async def of(self, part: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work, and count it for a part."""
        result: Result = await _Steps(self, part, work)
        return result

    def watch(self, part: str, target: Any) -> Any:
        """Return what is like `target`, but has its coroutines counted for a part."""
        return _Watched(self, part, target)

    def take(self) -> dict[str, float]:
        """Return the seconds of every part since the last call."""
        self.turn(self._part)
        seconds, self._seconds = self._seconds, {}
        return seconds

    def turn(self, part: str) -> str:
        """Count for another part from now on; returns the one before."""
        now, before = self._now(), self._part
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before


class _Steps:
    """Awaits a coroutine, and counts each of its steps."""

    def __init__(self, clock: CpuClock, part: str, work: Coroutine[Any, Any, Any]) -> None:
        self._clock, self._part, self._work = clock, part, work

    def __await__(self) -> Generator[Any, Any, Any]:
        # What asyncio makes of an awaitable that is no coroutine is a generator.
        work = self._work
        steps = work if isinstance(work, Generator) else work.__await__()
        step: Callable[[], Any] = partial(next, steps)
        while True:
            before = self._clock.turn(self._part)
            try:
                awaited = step()
            except StopIteration as end:
                return end.value
            finally:
                self._clock.turn(before)
            try:
                yield awaited
                step = partial(next, steps)
            except BaseException as error:
                # A cancellation, which the work may have something to say to.
                step = partial(steps.throw, error)


class _Watched:
    def __init__(self, clock: CpuClock, part: str, target: Any) -> None:
        self._clock, self._part, self._target = clock, part, target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **named: self._clock.of(self._part, found(*arguments, **named))
