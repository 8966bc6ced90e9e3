"""Deadlines that follow measurement, and one that runs on silence.

    update took 3 s, 4 s, 3 s -> its next deadline is ten times 4 s, within floor and ceiling
    batch: any news           -> its deadline begins anew

Both count the time between regular looks, of which none counts for more than two periods. So if
this process itself stood still for a while, stopped or starved, it does not find everything late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

FACTOR = 10.0
"""Times the longest that it took before."""
LOOKS = 20
"""In a deadline, unless that makes them further apart than `LONGEST_LOOK_SECONDS`."""
LONGEST_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The longest deadline, and the setting that says so.

    Example:
        Ceiling("learner.update_deadline_seconds", 3600.0)
    """

    setting: str
    seconds: float


@asynccontextmanager
async def silence_limit(
    seconds: float, news: Callable[[], object] = lambda: None
) -> AsyncIterator[None]:
    """Limit what goes on inside to so many seconds without news.

    Args:
        seconds: Longest silence.
        news: Returns something else than the last time whenever there was any; without it the
            limit is for all that goes on inside.

    Raises:
        TimeoutError: Without a text.
    """
    async with asyncio.timeout(None) as clock:
        looking = asyncio.create_task(_look(seconds, news, clock))
        try:
            yield
        finally:
            looking.cancel()


@asynccontextmanager
async def while_heard(
    batch: int, seconds: float, signs: Callable[[], object]
) -> AsyncIterator[None]:
    """Limit the silence of tickets that are awaited inside; queueing behind others is none.

    Args:
        batch: Whose tickets.
        seconds: Longest silence.
        signs: Returns something else whenever anything was heard of any ticket.

    Raises:
        TimeoutError: Naming batch and setting.
    """
    try:
        async with silence_limit(seconds, signs):
            yield
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError(
            f"batch {batch}: nothing was heard of any ticket for loop.batch_deadline_seconds = "
            f"{seconds:g}"
        ) from error


async def _look(seconds: float, news: Callable[[], object], clock: asyncio.Timeout) -> None:
    period, loop = min(LONGEST_LOOK_SECONDS, seconds / LOOKS), asyncio.get_running_loop()
    known, silent, before = news(), 0.0, loop.time()
    while silent < seconds:
        await asyncio.sleep(period)
        passed, before = min(loop.time() - before, 2 * period), loop.time()
        heard = news()
        silent, known = (0.0 if heard != known else silent + passed), heard
    clock.reschedule(loop.time())


class Deadlines:
    """The deadlines of what the parts of a run are asked to do.

    Args:
        floor_seconds: The least.
        reached: Called with who was too slow and how; returns what to raise.
    """

    def __init__(
        self, floor_seconds: float, reached: Callable[[str, str], Awaitable[Exception]]
    ) -> None:
        self._floor = floor_seconds
        self._reached = reached
        self._longest: dict[tuple[str, str], float] = {}

    def seconds(self, who: str, what: str, ceiling: Ceiling) -> float:
        """Return a deadline: the ceiling until it has been measured how long it takes."""
        if (who, what) not in self._longest:
            return ceiling.seconds
        return min(ceiling.seconds, max(self._floor, FACTOR * self._longest[who, what]))

    def took(self, who: str, what: str, seconds: float) -> None:
        """Take in how long something took."""
        self._longest[who, what] = max(self._longest.get((who, what), 0.0), seconds)

    @asynccontextmanager
    async def limit(
        self, who: str, what: str, ceiling: Ceiling, *, follows: bool = True
    ) -> AsyncIterator[None]:
        """Measure what goes on inside, and limit it.

        Args:
            who: Does it, such as "learners".
            what: Is done, such as "update".
            ceiling: The longest that it may take.
            follows: Whether it may take less once it has been measured; False for what may have
                to wait for something else.

        Raises:
            Exception: What `reached` returns.
        """
        seconds = self.seconds(who, what, ceiling) if follows else ceiling.seconds
        began = asyncio.get_running_loop().time()
        try:
            async with silence_limit(seconds):
                yield
        except TimeoutError as error:
            # What is awaited may have a deadline of its own, which says more.
            if str(error):
                raise
            longest = f"{seconds:.0f} s, where the longest before took "
            longest += f"{self._longest.get((who, what), 0.0):.1f} s"
            limit = f"{ceiling.setting} = {seconds:g}" if seconds == ceiling.seconds else longest
            raise await self._reached(who, f"took longer for {what} than {limit}") from error
        self.took(who, what, asyncio.get_running_loop().time() - began)
