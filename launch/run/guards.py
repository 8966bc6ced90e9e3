"""Work that is cancelled when a part of the run dies; one piece of work may contain another.

A death cancels the innermost piece, which then raises it. If that piece is being cancelled already,
`end_innermost` returns False and the caller keeps the death for the next piece. If a piece fails by
itself, the cause behind its error is looked for, and raised in its place; a death that arrives
meanwhile comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Guards:
    """The pieces of work that go on.

    Args:
        behind: Finds what is behind an error of one of `kinds`; returns what to raise.
        kinds: Of errors behind which there may be something.
    """

    def __init__(
        self, behind: Callable[[Exception], Awaitable[Exception]], *kinds: type[Exception]
    ) -> None:
        self._behind = behind
        self._kinds = kinds
        self._deaths: list[asyncio.Future[None]] = []

    async def hold(
        self, work: Coroutine[Any, Any, Result], missed: Exception | None = None
    ) -> Result:
        """Do some work until something dies.

        Args:
            work: What to do.
            missed: A death from before the work began, which ends it at once.
        """
        task, death = asyncio.ensure_future(work), asyncio.get_running_loop().create_future()
        for each in (task, death):
            # Of two that fail at once one is told.
            each.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._deaths.append(death)
        if missed is not None:
            death.set_exception(missed)
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if not death.done():
                return task.result()
        except self._kinds as error:
            behind = await self._behind(error)
            if not death.done():
                if behind is error:
                    raise
                raise behind from error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._deaths.remove(death)
            death.cancel()
        died = death.exception()
        assert died is not None
        raise died

    def end_innermost(self, error: Exception) -> bool:
        """End the innermost work; False if there is none, or it is given up already."""
        if not self._deaths or self._deaths[-1].done():
            return False
        self._deaths[-1].set_exception(error)
        return True

    def end_all(self, error: BaseException) -> None:
        """End all work."""
        for death in self._deaths:
            if not death.done():
                death.set_exception(error)
