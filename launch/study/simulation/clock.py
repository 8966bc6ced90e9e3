"""An asyncio event loop whose clock jumps to the next alarm when there is nothing left to do.

Coroutines run on it as they are: sleeps, timeouts and `loop.time()` are in simulated seconds, and
an hour of waiting takes no time. Nothing outside the process can be waited for.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class StuckError(RuntimeError):
    """Every coroutine waits for another one, and no alarm is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for files, lets the time pass at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is there at once: only the loop's own wake-up call for signals."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
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


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in simulated time.

    Raises:
        StuckError: If it waits for something that will never happen.
    """
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(main)
