"""What asynchronous rewards return, waited for.

    async def score(...) -> coroutine -> finished -> what it returns

A reward process scores one response at a time, in its main thread, so that the coroutine may have
the process to itself. Its event loop stays from one response to the next: clients that a reward
keeps open belong to it.
"""

import inspect
from functools import cache
from typing import Any


def finished(returned: Any) -> Any:
    """Return what an awaitable comes to, and anything else as it is.

    Whatever it raises is raised here; tasks that it leaves behind go on with the next one.
    """
    if not inspect.isawaitable(returned):
        return returned

    async def whole() -> Any:
        return await returned

    return _loop().run_until_complete(whole())


@cache
def _loop() -> Any:
    # Most rewards need none, and each of their processes would take longer to start.
    import asyncio

    return asyncio.new_event_loop()
