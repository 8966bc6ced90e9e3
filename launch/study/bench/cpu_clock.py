"""Which part of a program takes the CPU: seconds of this thread, by the part that has the turn."""

import time
from collections.abc import Callable

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
