"""An engine that gives its device's memory back while others need it.

    begin             scheduling stops; keys and values are dropped, weights dropped or moved
    wake_for_weights  room for weights, which a learner then sends: nothing of older ones is left
    end               room for keys and values; scheduling begins again

On CPUs vLLM takes the same calls and gives nothing back.
"""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

WEIGHTS, CACHE = "weights", "kv_cache"
"""What vLLM calls the parts of an engine's memory that wake one by one."""


class Sleeper(Protocol):
    """What of vLLM's `AsyncLLM` is called here."""

    async def sleep(self, level: int, mode: Literal["keep"]) -> None:
        """Sleep: level 1 moves weights to the host's memory, level 2 drops them."""

    async def wake_up(self, tags: list[str]) -> object:
        """Wake parts; scheduling begins with the last."""


class Sleep:
    """Whether an engine sleeps, and which parts of it do.

    Args:
        llm: The engine.
        keeps_weights: Whether nobody sends it all weights anew, so that they are kept on the host.
    """

    def __init__(self, llm: Sleeper, *, keeps_weights: bool) -> None:
        self._llm = llm
        self._level = 1 if keeps_weights else 2
        self._asleep: list[str] = []
        # Whoever gave up waiting for one to fall asleep may wake it while it still does.
        self._moving = asyncio.Lock()

    async def begin(self) -> None:
        """Fall asleep; what is asked, or is asked from then on, waits and loses nothing."""
        async with self._moving:
            if not self._asleep:
                await self._llm.sleep(level=self._level, mode="keep")
                self._asleep = [WEIGHTS, CACHE]

    async def wake_for_weights(self) -> bool:
        """Make room for weights if it sleeps; returns whether it does, and so generates nothing."""
        async with self._moving:
            asleep = bool(self._asleep)
            await self._wake(WEIGHTS)
            return asleep

    async def end(self) -> None:
        """Wake up wholly, if it sleeps; its weights must be there."""
        async with self._moving:
            await self._wake(WEIGHTS)
            await self._wake(CACHE)

    async def _wake(self, part: str) -> None:
        if part in self._asleep:
            await self._llm.wake_up([part])
            self._asleep.remove(part)
