"""Event loops that stand for processes: in one thread and simulated time, the CPU of each apart.

    first loop idle -> the others that are called or due, until they are idle, too -> time jumps
    call of another process -> runs on its loop -> its answer, on the caller's

Every loop is asyncio's own, so that what it takes for timers, futures and looking for events counts
for its process, and nothing within a loop is measured step by step.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from launch.study.bench.cpu_clock import CpuClock
from launch.study.simulation.clock import StuckError

Result = TypeVar("Result")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for files, says that the loop is idle."""

    def __init__(self, idle: Callable[[float], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look for events, after a while in which others may work where there is nothing to do."""
        if timeout != 0:
            self._idle(math.inf if timeout is None else timeout)
        return super().select(0)


class Process(asyncio.SelectorEventLoop):
    """The event loop of one process.

    Args:
        name: What its CPU counts for.
        together: All of them.
        idle: Called with the seconds until its next alarm when it has nothing to do.
    """

    def __init__(self, name: str, together: Processes, idle: Callable[[float], None]) -> None:
        self._together = together
        super().__init__(_Selector(idle))
        self.name, self.alarm = name, math.inf
        self.inbox: list[Callable[[], None]] = []

    def time(self) -> float:
        """Return the simulated seconds."""
        return self._together.now

    def call(
        self, work: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any
    ) -> asyncio.Future[Result]:
        """Do some work here; the answer comes to the loop that runs now."""
        caller: Any = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = caller.create_future()
        self.inbox.append(partial(self._begin, caller, answer, work, arguments))
        return answer

    def _begin(
        self,
        caller: Process,
        answer: asyncio.Future[Result],
        work: Callable[..., Coroutine[Any, Any, Result]],
        arguments: tuple[Any, ...],
    ) -> None:
        self.create_task(work(*arguments)).add_done_callback(partial(_send, caller, answer))

    def go_on(self) -> None:
        """Work until there is nothing to do; the selector says so by `stop`."""
        self.read()
        self.run_forever()

    def read(self) -> None:
        """Take in what came from others."""
        for callback in self.inbox:
            self.call_soon(callback)
        self.inbox.clear()


def _send(caller: Process, answer: asyncio.Future[Result], task: asyncio.Task[Result]) -> None:
    if not task.cancelled():
        caller.inbox.append(partial(_receive, answer, task))


def _receive(answer: asyncio.Future[Result], task: asyncio.Task[Result]) -> None:
    if answer.done():
        return
    if error := task.exception():
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


class Processes:
    """Some processes; the first of them drives the others.

    Args:
        first: Its name.
        others: Names of the others.
        cpu: Counts for them.
    """

    def __init__(self, first: str, others: tuple[str, ...], cpu: CpuClock) -> None:
        self.now = 0.0
        self._cpu, self._first_name = cpu, first
        self._others = {name: self._other(name) for name in others}

    def __getitem__(self, name: str) -> Process:
        """Return one of the others."""
        return self._others[name]

    def run(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the first process to its end.

        Raises:
            StuckError: If it waits for something that will never happen.
        """
        try:
            with asyncio.Runner(loop_factory=self._make_first) as runner:
                return runner.run(main)
        finally:
            for process in self._others.values():
                for task in asyncio.all_tasks(process):
                    task.cancel()
                process.go_on()
                process.close()

    def _make_first(self) -> Process:
        self._first = Process(self._first_name, self, self._idle)
        return self._first

    def _other(self, name: str) -> Process:
        def idle(seconds: float) -> None:
            process.alarm = self.now + seconds
            process.stop()

        process = Process(name, self, idle)
        return process

    def _idle(self, seconds: float) -> None:
        """Let the others work until the first process is called, or has something due."""
        first, due = self._first, self.now + seconds
        asyncio._set_running_loop(None)
        try:
            while not first.inbox and self.now < due:
                busy = [p for p in self._others.values() if p.inbox or p.alarm <= self.now]
                for process in busy:
                    self._cpu.turn(process.name)
                    process.go_on()
                if not busy:
                    self.now = min(due, *(p.alarm for p in self._others.values()))
                    if math.isinf(self.now):
                        raise StuckError("all processes wait for something that will never happen")
        finally:
            self._cpu.turn(first.name)
            asyncio._set_running_loop(first)
        first.read()
