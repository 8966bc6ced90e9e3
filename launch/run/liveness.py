"""Whether a part that does not answer is dead: by its silence, and by what its process does.

A process that is busy may be slow to answer, on a loaded machine for minutes. What is silent is
therefore dead only if its process is gone, stopped, or has nothing to do; where the process cannot
be seen, on another node, only after a longer silence.
"""

from __future__ import annotations

from enum import Enum

from rollout.heartbeat import Heartbeat
from rollout.processes import Process, look, pid_space, threads_at_work

IDLE_FACTOR = 2
"""Times the longest silence for what sleeps: it may wait for something slow, and hold up its
answer."""
UNSEEN_FACTOR = 4
"""Times the longest silence for what cannot be seen."""
LEAST_WORK = 0.02
"""Share of a core; Ray's own threads take a quarter of it where nothing else goes on."""


class Seen(Enum):
    """What can be seen of a part's process from here."""

    NOTHING = "is on another node"
    GONE = "is gone"
    STOPPED = "is stopped"
    IDLE = "has nothing to do"
    AT_WORK = "is at work"


class Liveness:
    """How long a part has been silent, and what its process did meanwhile.

    Args:
        silence_seconds: How long it may be silent while its process is stopped.
    """

    def __init__(self, silence_seconds: float) -> None:
        self._limit = silence_seconds
        self.silent_seconds = 0.0
        self._stopped = 0.0
        self._idle = 0.0

    def answered(self) -> None:
        """Take in a heartbeat."""
        self.silent_seconds = self._stopped = self._idle = 0.0

    def look(self, seconds: float, seen: Seen) -> str:
        """Take in a look at a part that has not answered.

        Args:
            seconds: Time since the last look that counts.
            seen: What its process does.

        Returns:
            How it died, or "" while it may live.
        """
        if seen is Seen.GONE:
            return "died"
        self.silent_seconds += seconds
        self._stopped = self._stopped + seconds if seen is Seen.STOPPED else 0.0
        self._idle = self._idle + seconds if seen in (Seen.STOPPED, Seen.IDLE) else 0.0
        dead = (
            self._stopped >= self._limit
            or self._idle >= self._limit * IDLE_FACTOR
            or (seen is Seen.NOTHING and self.silent_seconds >= self._limit * UNSEEN_FACTOR)
        )
        silent = f"does not answer for {self.silent_seconds:.0f} s: its process {seen.value}"
        return silent if dead else ""


class ProcessObserver:
    """Looks at the process that heartbeats come from, where it can be seen from here."""

    def __init__(self) -> None:
        self._before: Process | None = None

    def see(self, heartbeat: Heartbeat | None, seconds: float) -> Seen:
        """Say what the process did since the last look.

        Args:
            heartbeat: The part's last heartbeat; None before the first.
            seconds: Time since the last look.
        """
        if heartbeat is None or not heartbeat.space or heartbeat.space != pid_space():
            return Seen.NOTHING
        process, before = look(heartbeat.pid), self._before
        self._before = process
        if process is None or process.started != heartbeat.started:
            return Seen.GONE
        if process.stopped:
            return Seen.STOPPED
        worked = 0.0 if before is None else process.cpu_seconds - before.cpu_seconds
        busy = before is None or worked >= LEAST_WORK * seconds or threads_at_work(process.pid)
        return Seen.AT_WORK if busy else Seen.IDLE
