"""Heartbeats: how an attempt at a ticket that goes on is told from one that does not.

    engine -> tokens of each request -> Silence -> Watch: ends a request without progress
    actor  -> Attempts: what is here, how many responses are done -> pool: room, and its own clock

Nothing here counts what merely waits as silent.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

LOOKS_PER_DEADLINE = 20
LONGEST_LOOK_SECONDS = 5.0
GATHER_SECONDS = 0.1
"""News of that time are told together."""


class StalledError(TimeoutError):
    """Something went on for too long without a heartbeat."""


@dataclass(slots=True)
class _Request:
    arrival: int
    num_tokens: int = 0
    silent_seconds: float = 0.0
    looked_at: bool = False


class Silence:
    """How long each request of an engine has been without a heartbeat.

    Engines serve in order of arrival. A token is therefore a heartbeat of its request and of all
    that came later, which may be waiting behind it, be it for their turn or, once preempted, for
    memory; it says nothing of those that came before.
    """

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}
        self._arrivals = itertools.count()

    def begin(self, name: str) -> None:
        """Take in a request that goes to the engine."""
        self._requests[name] = _Request(next(self._arrivals))

    def end(self, name: str, *, completed: bool) -> None:
        """Take in that the engine is done with a request, or that it was given up."""
        ended = self._requests.pop(name)
        if completed:
            for request in self._requests.values():
                if request.arrival > ended.arrival:
                    request.silent_seconds = 0.0

    def look(self, num_tokens: Mapping[str, int], seconds: float) -> dict[str, float]:
        """Take in how many tokens requests have by now.

        Args:
            num_tokens: By request; none where it is missing.
            seconds: Time since the last look that counts.

        Returns:
            Seconds without a heartbeat, by request.
        """
        heard = False
        for name, request in self._requests.items():
            now = num_tokens.get(name, 0)
            heard = heard or now > request.num_tokens
            # What came since the last look was not silent for all the time since then.
            alive = heard or not request.looked_at
            request.num_tokens, request.looked_at = now, True
            request.silent_seconds = 0.0 if alive else request.silent_seconds + seconds
        return {name: request.silent_seconds for name, request in self._requests.items()}


class Watch:
    """Ends the requests of an engine that make no progress.

    Args:
        deadline_seconds: Longest silence of a request.
        num_tokens: Returns the tokens that each request has so far, by name.
    """

    def __init__(
        self, deadline_seconds: float, num_tokens: Callable[[], Mapping[str, int]]
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._num_tokens = num_tokens
        self._silence = Silence()
        self._clocks: dict[str, asyncio.Timeout] = {}
        self._looking: asyncio.Task[None] | None = None
        self.paused = False
        """While True no clock runs: the engine takes new weights."""

    @asynccontextmanager
    async def request(self, name: str) -> AsyncIterator[None]:
        """Watch a request while its tokens are awaited inside.

        Raises:
            StalledError: If it is silent for too long.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        completed = False
        self._silence.begin(name)
        try:
            async with asyncio.timeout(None) as clock:
                self._clocks[name] = clock
                yield
            completed = True
        except TimeoutError:
            if not clock.expired():
                raise
            raise StalledError(
                f"the engine gave a response no token for {self._deadline_seconds:g} s, nor one "
                "that came before it"
            ) from None
        finally:
            del self._clocks[name]
            self._silence.end(name, completed=completed)

    async def _look(self) -> None:
        # Counted in looks, so that a process that stood still does not find everything silent.
        period = min(LONGEST_LOOK_SECONDS, self._deadline_seconds / LOOKS_PER_DEADLINE)
        loop = asyncio.get_running_loop()
        while self._clocks:
            await asyncio.sleep(period)
            if self.paused:
                continue
            for name, seconds in self._silence.look(self._num_tokens(), period).items():
                clock = self._clocks[name]
                if seconds >= self._deadline_seconds and not clock.expired():
                    clock.reschedule(loop.time())


Key = tuple[int, int]
"""Ticket id and attempt."""


@dataclass(slots=True, eq=False)
class _Attempt:
    num_done: int = 0
    changed_at: int = 0
    """Number of the news that it changed with."""


class Attempts:
    """The attempts that an actor has, for whoever wants to know how far they are."""

    def __init__(self) -> None:
        self._here: dict[Key, _Attempt] = {}
        self._num_news = 0
        self._news = asyncio.Event()
        self._told_all_at = -math.inf

    @contextmanager
    def attempt(self, key: Key) -> Iterator[Callable[[], None]]:
        """Have an attempt here; call what is yielded when one of its responses is done.

        Where another run begins, one that was cancelled may still be on its way out when that run's
        ticket of the same number comes, and has no part in it.
        """
        mine = self._here[key] = _Attempt()

        def done() -> None:
            if self._here.get(key) is mine:
                self._num_news += 1
                mine.num_done += 1
                mine.changed_at = self._num_news
                self._news.set()

        try:
            yield done
        finally:
            if self._here.get(key) is mine:
                del self._here[key]

    async def changed(self, known: int, patience_seconds: float) -> tuple[int, dict[Key, int]]:
        """Return how far attempts are, as soon as there are news.

        Those with news, and every `patience_seconds` all of them: with hundreds of engines hearing
        of all for every response that ends would be most of the driver's work.

        Args:
            known: Number that the last answer came with; 0 at first, which asks for all.
            patience_seconds: Answer after this time in any case.

        Returns:
            The number of news so far, and how many responses of each attempt are done.
        """
        if self._num_news == known:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    await self._news.wait()
                await asyncio.sleep(min(GATHER_SECONDS, patience_seconds))
        now = asyncio.get_running_loop().time()
        if known and now - self._told_all_at < patience_seconds:
            news = {k: mine.num_done for k, mine in self._here.items() if mine.changed_at > known}
            return self._num_news, news
        self._told_all_at = now
        return self._num_news, {key: mine.num_done for key, mine in self._here.items()}
