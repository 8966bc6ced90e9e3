"""Seconds of what the loop waits for, on the running event loop's clock.

That is the monotonic clock, or simulated seconds where `launch.study.simulation.clock` runs it.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def loop_time() -> float:
    """Seconds on the running event loop's clock."""
    return asyncio.get_running_loop().time()


class Laps:
    """Seconds between calls."""

    def __init__(self) -> None:
        self._last = loop_time()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        now = loop_time()
        elapsed, self._last = now - self._last, now
        return elapsed


class LearnerClock:
    """Seconds that the learners take for each call: they answer one after the other.

    Of a call that waits behind another one only what comes after that one's answer counts, so that
    seconds of calls that overlap add up to those in which learners were at work.
    """

    def __init__(self) -> None:
        self._answered = -math.inf

    async def of(self, call: Awaitable[Answer]) -> tuple[Answer, float]:
        """Wait for a call, and return its answer and its seconds."""
        asked = loop_time()
        answer = await call
        answered = loop_time()
        seconds = answered - max(asked, self._answered)
        self._answered = answered
        return answer, seconds


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of the phases of a step, which take turns."""

    wait: float
    """For the batch to be drawn and generated."""
    update: float
    """Of selecting and learning, all passes."""
    publish: float
    """Until engines have the new version."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.wait + self.update + self.publish


class GenerationClock:
    """Seconds in which at least one ticket is in generation, in all and by batch.

    Where tickets of several batches are open at once, a second is split by their numbers: the
    engines serve them together.
    """

    def __init__(self, now: Callable[[], float] = loop_time) -> None:
        self._now = now
        self._open: dict[int, int] = {}
        self._num_open = 0
        self._seconds: defaultdict[int, float] = defaultdict(float)
        self._total = 0.0
        self._since = now()

    def begin(self, batch: int, num_tickets: int) -> None:
        """Count so many tickets of a batch as open, until each of them ends."""
        self._settle()
        if num_tickets:
            self._open[batch] = self._open.get(batch, 0) + num_tickets
            self._num_open += num_tickets

    def end(self, batch: int) -> None:
        """Take in that a ticket of a batch is not open any more."""
        self._settle()
        self._num_open -= 1
        self._open[batch] -= 1
        if not self._open[batch]:
            # Batches with no ticket open must not pile up.
            del self._open[batch]

    def take(self, batch: int) -> float:
        """Seconds of a batch since the last call for it."""
        self._settle()
        return self._seconds.pop(batch, 0.0)

    def take_total(self) -> float:
        """Seconds of all batches since the last call."""
        self._settle()
        total, self._total = self._total, 0.0
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds that were not taken yet; tickets that are open begin anew."""
        self._settle()
        seconds = {str(batch): own for batch, own in self._seconds.items()}
        return {"seconds": seconds, "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, before any ticket begins."""
        self._seconds.update({int(batch): own for batch, own in state["seconds"].items()})
        self._total = state["total"]

    def _settle(self) -> None:
        now = self._now()
        elapsed, self._since = now - self._since, now
        if elapsed and self._num_open:
            self._total += elapsed
            for batch, count in self._open.items():
                self._seconds[batch] += elapsed * count / self._num_open
