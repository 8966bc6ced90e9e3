"""Who may go to an engine: a bounded number of responses, and the rest in the order of arrival.

    enter(place) -> waits -> engine with room -> left, response by response -> next one enters

What waits here runs against no clock, can still go to whichever engine has room first, and is not
lost when an engine dies.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class Admission:
    """Room at R engines; all are closed until opened.

    An engine with someone waiting for it always has `full` responses to work on, and never more
    than the larger of `full + queued` and one ticket beyond `full - 1`.

    Args:
        num_engines: R.
        full: Responses that an engine works on at the same time, at least 1.
        queued: Responses that may wait in an engine beyond those.
    """

    def __init__(self, num_engines: int, *, full: int, queued: int) -> None:
        self._full = full
        self._limit = full + queued
        self._load = [0] * num_engines
        self._open = [False] * num_engines
        # Load and index of engines, the least loaded first: the last load pushed for an open engine
        # is in it, and others, which are passed over, may be. With hundreds of engines looking at
        # all of them for every response that ends would be most of the driver's work.
        self._least: list[tuple[int, int]] = []
        self._waiting: list[tuple[int, int, int, asyncio.Future[int]]] = []
        self._arrivals = count()
        self._error: BaseException | None = None

    async def enter(self, place: int, num_responses: int) -> int:
        """Wait for room, and take it.

        Args:
            place: Who has a lower one goes first; among equals, who came first.
            num_responses: To be taken back by `leave`.

        Returns:
            The engine: of those with room the one with the fewest responses.

        Raises:
            Exception: What `fail` was told.
        """
        if self._error is not None:
            raise self._error
        admitted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (place, next(self._arrivals), num_responses, admitted))
        self._admit()
        try:
            return await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                # It may have been the first, too large for what is free, before others that fit.
                self._admit()
            elif admitted.exception() is None:
                self.leave(admitted.result(), num_responses)
            raise

    def leave(self, index: int, num_responses: int) -> None:
        """Give back the room of some responses of an engine."""
        self._add(index, -num_responses)
        self._admit()

    def add(self) -> None:
        """Take in one engine more, which is closed."""
        self._load.append(0)
        self._open.append(False)

    @property
    def num_open(self) -> int:
        """How many engines may have responses."""
        return sum(self._open)

    def open(self, index: int) -> None:
        """Let an engine have responses."""
        self._open[index] = True
        self._add(index, 0)
        self._admit()

    def close(self, index: int) -> None:
        """Send an engine nothing more."""
        self._open[index] = False

    def is_open(self, index: int) -> bool:
        """Return whether an engine may have responses."""
        return self._open[index]

    def fail(self, error: BaseException) -> None:
        """Raise an error in everyone who waits or will come."""
        self._error = error
        while self._waiting:
            *_, admitted = heapq.heappop(self._waiting)
            if not admitted.done():
                admitted.set_exception(error)

    def forgive(self) -> None:
        """Let everyone come again after `fail`."""
        self._error = None

    def _admit(self) -> None:
        while self._waiting:
            *_, num_responses, admitted = self._waiting[0]
            if not admitted.done():
                index = self._room_for(num_responses)
                # Nobody overtakes: a large group would else wait for ever behind small ones.
                if index is None:
                    return
                self._add(index, num_responses)
                admitted.set_result(index)
            heapq.heappop(self._waiting)

    def _add(self, index: int, num_responses: int) -> None:
        """Change an engine's load."""
        self._load[index] += num_responses
        if self._open[index]:
            heapq.heappush(self._least, (self._load[index], index))
        if len(self._least) > 8 * len(self._load) + 64:
            # What is passed over lies deep where nobody waits.
            self._least = [(self._load[i], i) for i, is_open in enumerate(self._open) if is_open]
            heapq.heapify(self._least)

    def _room_for(self, num_responses: int) -> int | None:
        while self._least:
            load, index = self._least[0]
            if self._open[index] and self._load[index] == load:
                free = load < self._full or load + num_responses <= self._limit
                return index if free else None
            heapq.heappop(self._least)
        return None
