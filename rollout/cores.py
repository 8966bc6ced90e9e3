"""Cores that engines on CPUs keep to, each its own.

An engine's thread computes without a break, while those around it wake thousands of times a second;
the system moves it out of their way, from core to core, and its caches stay behind.
`launch.bench rollout` has what keeping to a core is worth.

    keep(thread) -> a free core, held by name -> the thread runs there and nowhere else
    look()       -> does it get its core? if not, it runs anywhere again
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from rollout.processes import PROC

MOST_WAITING = 0.25
"""Share of the time of a thread that could run in which it may wait for its core. Alone with short
visitors it waits less than a tenth; with another that computes, half."""
LOOK_SECONDS = 1.0
"""Shortest time of a thread that could run to judge by."""


class OwnCores:
    """Cores that one thread keeps to, while nobody else who asks here gets them.

    A core is held by the name of a socket, which the system frees when this process ends, however
    that comes. Names are known within a network namespace: that others who are not seen compute on
    the same core shows in how long the thread waits for it.

    Args:
        count: How many cores, at least 1.
        name: Whom they are shared among.
        proc: Where the system lists processes.
    """

    def __init__(self, count: int, name: str = "cost-aware-rl", proc: Path = PROC) -> None:
        self._count = count
        self._name = name
        self._proc = proc
        self._held: list[socket.socket] = []
        self._thread = 0
        self._cores: set[int] = set()
        self._anywhere: set[int] = set()
        self._seen = (0, 0)

    def keep(self, thread: int) -> set[int]:
        """Let a thread keep to free cores.

        Args:
            thread: Its id; that of a process is its main thread's.

        Returns:
            Which; none where too few are free, where it has no others to be moved to, or where
            the system does not say how long it waits for them, or does not let it be moved.
        """
        seen = self._time_of(thread)
        if seen is None:
            return set()
        available = os.sched_getaffinity(thread)
        cores = self._hold(available) if len(available) > self._count else set()
        if not cores:
            return set()
        try:
            os.sched_setaffinity(thread, cores)
        except OSError:
            self.free()
            return set()
        self._thread, self._seen = thread, seen
        self._cores, self._anywhere = cores, available
        return cores

    def look(self) -> bool:
        """Let the thread run anywhere again if it waited too long for its cores.

        Returns:
            Whether it keeps to cores of its own.
        """
        if not self._held:
            return False
        seen = self._time_of(self._thread)
        if seen is None:
            return True
        ran, waited = (new - old for new, old in zip(seen, self._seen, strict=True))
        if ran + waited < LOOK_SECONDS * 1e9:
            return True
        self._seen = seen
        if waited > MOST_WAITING * (ran + waited):
            # It may have ended, or the system allows it none of those cores any more, which says
            # already where it runs.
            with suppress(OSError):
                # Else somebody gave it other cores since.
                if os.sched_getaffinity(self._thread) == self._cores:
                    os.sched_setaffinity(self._thread, self._anywhere)
            self.free()
        return bool(self._held)

    def free(self) -> None:
        """Give the cores to whoever asks next."""
        for held in self._held:
            held.close()
        self._held = []

    def _hold(self, available: set[int]) -> set[int]:
        cores: set[int] = set()
        for core in sorted(available):
            held = socket.socket(socket.AF_UNIX)
            try:
                held.bind(f"\0{self._name} core {core}")
            except OSError:
                held.close()
                continue
            self._held.append(held)
            cores.add(core)
            if len(cores) == self._count:
                return cores
        self.free()
        return set()

    def _time_of(self, thread: int) -> tuple[int, int] | None:
        """Nanoseconds that a thread ran, and that it could have but waited; None if unknown."""
        try:
            ran, waited, _ = (self._proc / str(thread) / "schedstat").read_text().split()
        except (OSError, ValueError):
            return None
        return int(ran), int(waited)
