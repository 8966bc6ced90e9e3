"""What an actor says of itself and of its engine's processes when it is asked whether it lives.

driver -> take_heartbeat, run inside the actor -> Heartbeat
                |
                +-- actor.fault: EngineProcesses, gone or stopped
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.processes import (
    Process,
    command,
    descendants,
    left_semaphores,
    look,
    pid_space,
    shared_memory,
)
from rollout.stack_traces import offer

_TITLE = "VLLM::"
"""How vLLM's processes call themselves."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What an actor says of itself.

    Example:
        Heartbeat(pid=4711, started=98765, space="0b6e... pid:[4026531836]", fault="")
    """

    pid: int
    started: int
    """See `rollout.processes.Process`."""
    space: str
    """Where `pid` means this process; see `rollout.processes.pid_space`."""
    fault: str
    """Why the actor counts as dead although it answers, such as "is of no use: its engine process
    4712 is gone"; "" while nothing is wrong."""


def take_heartbeat(actor: Any, silence_seconds: float) -> Heartbeat:
    """Answer for the actor in whose process this runs.

    Args:
        actor: The instance; its `fault`, if it has one, is asked.
        silence_seconds: How long a process of its engine may be stopped.
    """
    offer()
    for path in left_semaphores(os.getpid()):
        path.unlink(missing_ok=True)
    own = look(os.getpid())
    fault = actor.fault(silence_seconds) if hasattr(actor, "fault") else ""
    return Heartbeat(os.getpid(), own.started if own else 0, pid_space(), fault)


def shared_names(pid: int) -> set[Path]:
    """Return the names of shared memory that a process leaves behind when a signal ends it.

    They are blocks of an engine, and semaphores of whoever imported joblib.
    """
    blocks = shared_memory(pid) if command(pid).startswith(_TITLE) else set()
    return blocks | left_semaphores(pid)


def kill(pids: Iterable[int]) -> None:
    """End processes, as far as they are there and ours, and remove what they would leave behind."""
    pids = tuple(pids)
    names = {path for pid in pids for path in shared_names(pid)}
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for path in names:
        path.unlink(missing_ok=True)


class EngineProcesses:
    """The processes of this process's engine, each from the first look that finds it.

    vLLM says of some that died that the engine is dead, of others nothing, and nothing of those
    that are stopped.
    """

    def __init__(self) -> None:
        self._known: dict[int, Process] = {}
        self._stopped_since: dict[int, float] = {}
        self._complete = False

    def complete(self) -> None:
        """Take in that the engine is up: there will be no more processes than there are now.

        They hold all that they share by now, so that its names can go: what has no name is left
        behind by no death.
        """
        self._find()
        self._complete = True
        for pid in self._known:
            for path in shared_names(pid):
                path.unlink(missing_ok=True)

    @property
    def pids(self) -> list[int]:
        """Return their ids, those of processes that are gone included."""
        return list(self._known)

    def fault(self, silence_seconds: float, now: float) -> str:
        """Say which process is gone or has been stopped for too long; "" if none.

        Args:
            silence_seconds: How long one may be stopped.
            now: Any clock's seconds.
        """
        if not self._complete:
            self._find()
        for pid, first in list(self._known.items()):
            process = look(pid)
            if process is None or process.started != first.started:
                return f"is of no use: its engine process {pid} is gone"
            if not process.stopped:
                self._stopped_since.pop(pid, None)
            elif now - self._stopped_since.setdefault(pid, now) >= silence_seconds:
                return f"is of no use: its engine process {pid} is stopped"
        return ""

    def _find(self) -> None:
        # A spawned one cannot always write its title; see `rollout.engines.preload`.
        started = {child.pid for child in multiprocessing.active_children()}
        for process in descendants(os.getpid()):
            title = command(process.pid)
            # What an engine's process starts has its title until it is a program of its own.
            titled = title.startswith(_TITLE) and title != command(process.parent)
            if process.pid not in self._known and (titled or process.pid in started):
                self._known[process.pid] = process
