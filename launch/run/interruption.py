"""Signals in a run: the first asks it to stop, the second ends the process at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from launch.cli.output import leave_terminal
from launch.cli.refusals import RunError
from launch.cli.signals import SIGNALS, Interrupted, end, handled, interrupt, let_next_end

Result = TypeVar("Result")


class StoppedError(RunError):
    """A signal ended the run."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(f"stopped by {number.name} {message}")
        self.status = 128 + number
        """What the process exits with, as shells have it."""


@contextmanager
def stopped(what: str) -> Iterator[None]:
    """Say where in the program a signal arrived, if one does within a block.

    Args:
        what: Such as "while the run was starting".

    Raises:
        StoppedError: In the place of `Interrupted`.
    """
    try:
        yield
    except Interrupted as error:
        raise StoppedError(error.signal, what) from error


class Interruption:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._event = asyncio.Event()
        self._wake: Callable[[], object] = self._event.set

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Interruption]:
        """Listen to the signals within a block in the running event loop.

        Behind it they are handled as before, and a second one ends the process there too.
        """
        found, loop = cls(), asyncio.get_running_loop()
        found._wake = partial(loop.call_soon_threadsafe, found._event.set)

        # Not the loop's own way, which hears of none while something holds the loop up.
        def hear(number: int, frame: FrameType | None) -> None:
            found.arrive(signal.Signals(number))

        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            with handled(hear):
                yield found
        finally:
            if found.signal is not None and interrupt in before.values():
                let_next_end()

    def arrive(self, number: signal.Signals) -> None:
        """Take in a signal."""
        leave_terminal()
        if self.signal is None:
            self.signal = number
            self._wake()
        elif number is not signal.SIGHUP:
            end(number)

    async def wait(self) -> None:
        """Return when a signal has arrived."""
        await self._event.wait()

    async def ends(
        self,
        work: Coroutine[Any, Any, Result],
        what: str | Callable[[], str],
        grace_seconds: Callable[[], float] = float,
    ) -> Result:
        """Do some work that a signal gives up.

        Args:
            work: What to do.
            what: Where in the run that is, for the message, such as "before the first step"; or
                says so when it is given up.
            grace_seconds: Says when a signal has come how long the work may still go on.

        Raises:
            StoppedError: If a signal came first.
        """
        task, stop = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and (grace := grace_seconds()):
                await asyncio.wait({task}, timeout=grace)
            if task.done():
                return task.result()
        finally:
            # What is given up has come to its end, whoever gives it up.
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
        assert self.signal is not None
        raise StoppedError(self.signal, what if isinstance(what, str) else what())


async def until_signal(work: Coroutine[Any, Any, Result], what: str) -> Result:
    """Do all that an event loop is for, until a signal gives it up; see `Interruption.ends`."""
    with Interruption.listening() as interruption:
        return await interruption.ends(work, what)
