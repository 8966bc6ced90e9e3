"""Threads for functions that are not async, such as a user's tool that waits for somebody else.

asyncio's own are little more than the processors; here each play of an engine may wait in one.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

MOST_AT_A_TIME = 256
"""Further calls wait for a thread. A free one is used again before another begins."""


async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function in a thread, as `asyncio.to_thread` does, and return what it returns."""
    call = partial(contextvars.copy_context().run, function, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_AT_A_TIME, thread_name_prefix="functions")
