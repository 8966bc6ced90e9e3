"""An asyncio event loop whose clock jumps to the next alarm when there is nothing left to do.

Coroutines run on it as they are: sleeps, timeouts and `loop.time()` are in simulated seconds, and
an hour of waiting takes no time. Threads are waited for, and take no simulated time either; nothing
outside the process can be waited for.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class StuckError(RuntimeError):
    """Every coroutine waits for another one, and no alarm is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for files, lets the time pass at once."""

    now = 0.0
    num_threads = 0
    """At work for the loop."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is there: only the loop's own wake-up call, of signals and threads."""
        waits = self.num_threads > 0 and timeout != 0
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(None if waits else 0)
        if not ready:
            if timeout is None:
                raise StuckError("the simulation waits for something that will never happen")
            self.now += max(timeout, 0.0)
        return ready


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the simulated seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*Arguments], Result],
        *args: *Arguments,
    ) -> "asyncio.Future[Result]":
        """Call a function in a thread; until it returns no time passes for those who wait."""
        result = super().run_in_executor(executor, func, *args)
        self._jumping.num_threads += 1
        result.add_done_callback(self._came_back)
        return result

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what no coroutine asked for, but for a stop: that ends the run and is told of."""
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            super().call_exception_handler(context)

    async def shutdown_default_executor(self, *args: Any) -> None:
        """End the threads; another one waits for them."""
        self._jumping.num_threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jumping.num_threads -= 1

    def _came_back(self, _: "asyncio.Future[Any]") -> None:
        self._jumping.num_threads -= 1


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in simulated time.

    Raises:
        StuckError: If it waits for something that will never happen.
    """
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(main)
