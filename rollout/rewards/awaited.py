"""What asynchronous rewards return: used once it is there, or waited for."""

import inspect
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

_Used = TypeVar("_Used")


def after(returned: Any, use: Callable[[Any], _Used]) -> _Used | Awaitable[_Used]:
    """Return `use(returned)`; of an awaitable, a coroutine that uses what that comes to."""
    if not inspect.isawaitable(returned):
        return use(returned)

    async def used() -> _Used:
        return use(await returned)

    return used()


def finished(returned: Any) -> Any:
    """Return what an awaitable comes to, and anything else as it is.

    Whatever it raises is raised here; tasks that it leaves behind go on with the next one.
    """
    if not inspect.isawaitable(returned):
        return returned

    async def whole() -> Any:
        return await returned

    return own_loop().run_until_complete(whole())


@cache
def own_loop() -> Any:
    """Return this process's event loop for rewards: clients that one keeps open belong to it."""
    # Most rewards need none, and each of their processes would take longer to start.
    import asyncio

    return asyncio.new_event_loop()
