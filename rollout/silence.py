"""A time limit that is put off by heartbeats, however many there are."""

from __future__ import annotations

import asyncio
from types import TracebackType


class SilenceLimit:
    """As `asyncio.timeout(seconds)`, from the last sign on.

    A sign is remembered and no timer is touched, for there are thousands of signs a second; the
    timer looks at it when it goes off.

    Example:
        async with SilenceLimit(60.0) as limit:
            ...                 # limit.heard() whenever there is a heartbeat

    Raises:
        TimeoutError: On leaving, if there was none for so long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock = asyncio.timeout(None)
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        """Take a heartbeat in."""
        self._heard = self._loop.time()

    async def __aenter__(self) -> SilenceLimit:
        """Begin; that is the first sign."""
        self._loop = asyncio.get_running_loop()
        self.heard()
        await self._clock.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """End, and raise if it is over."""
        if self._timer is not None:
            self._timer.cancel()
        await self._clock.__aexit__(kind, error, where)

    def _look(self) -> None:
        due = self._heard + self._seconds
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._look)
        else:
            self._clock.reschedule(due)
