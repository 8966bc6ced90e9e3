"""Calls to workers that answer one after the other, as Ray's actors do, and the time of each.

    update asked, written asked -> update's clock -> update answered -> written's clock

What queues behind another call has no clock: it is that one which may hang.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any


class QueuedCalls:
    """The calls that a team of workers was asked for, in the order in which they were asked."""

    def __init__(self) -> None:
        self._last: asyncio.Future[list[Any]] | None = None

    async def wait(
        self, calls: Sequence[Awaitable[Any]], limit: AbstractAsyncContextManager[None]
    ) -> list[Any]:
        """Wait for all workers' answers to one question; the first error of any ends the wait.

        Args:
            calls: One per worker, which has been asked already.
            limit: Entered when what was asked before is answered, or given up as too late.
        """
        answers = asyncio.gather(*calls)
        before, self._last = self._last, answers
        answered = asyncio.ensure_future(_clocked(before, answers, limit))
        for each in (answers, answered):
            # Where nobody waits for them any more, nobody need hear of their error.
            each.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Whoever is cancelled leaves the workers at it, and others behind, and the clock goes on.
        return await asyncio.shield(answered)


async def _clocked(
    before: asyncio.Future[list[Any]] | None,
    answers: asyncio.Future[list[Any]],
    limit: AbstractAsyncContextManager[None],
) -> list[Any]:
    if before is not None and not before.done():
        await asyncio.wait({before, answers}, return_when=asyncio.FIRST_COMPLETED)
    try:
        async with limit:
            await asyncio.wait({answers})
            return answers.result()
    except Exception:
        answers.cancel()
        raise
