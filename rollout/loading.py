"""Loading packages, of which a program needs many."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage meanwhile.

    What a package makes when it is imported stays; Python would look at all of it again and again,
    for a fifth of the time that vLLM takes to import.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


def begin_import(name: str) -> Future[ModuleType]:
    """Import a module in a thread, beside something that waits for other processes."""

    def load() -> ModuleType:
        with loading():
            return importlib.import_module(name)

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="import")
    try:
        return pool.submit(load)
    finally:
        pool.shutdown(wait=False)
