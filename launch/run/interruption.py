"""SIGINT and SIGTERM: the first asks a run to stop, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from launch.cli.refusals import RunError

Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(RunError):
    """A signal ended the run."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(f"stopped by {number.name} {message}")
        self.status = 128 + number
        """What the process exits with, as shells have it."""


class Interruption:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._event = asyncio.Event()

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Interruption]:
        """Listen to both signals within a block in the running event loop."""
        found, loop = cls(), asyncio.get_running_loop()
        try:
            for number in SIGNALS:
                loop.add_signal_handler(number, found.arrive, number)
        except (RuntimeError, ValueError, NotImplementedError):
            # Only the main thread hears signals; elsewhere there is nothing to listen to.
            yield found
            return
        try:
            yield found
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def arrive(self, number: signal.Signals) -> None:
        """Take in a signal."""
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        self._event.set()

    async def wait(self) -> None:
        """Return when a signal has arrived."""
        await self._event.wait()

    async def ends(self, work: Coroutine[Any, Any, Result], what: str) -> Result:
        """Do some work that a signal gives up.

        Args:
            work: What to do.
            what: Where in the run that is, for the message, such as "before the first step".

        Raises:
            StoppedError: If a signal came first.
        """
        task, stop = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert self.signal is not None
            raise StoppedError(self.signal, what)
        finally:
            task.cancel()
            stop.cancel()
