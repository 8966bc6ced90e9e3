"""Loading packages, of which a program needs many."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


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


@contextmanager
def without_sklearn() -> Iterator[None]:
    """Hide scikit-learn, where nobody has imported it yet, from what is imported meanwhile.

    transformers imports it as soon as it loads a tokenizer or a model, a second's work, for a way
    of generating that nothing here uses.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("sklearn", None)
    try:
        yield
    finally:
        if modules.get("sklearn") is None:
            modules.pop("sklearn", None)


def begin_loading(load: Callable[[], Result]) -> Future[Result]:
    """Import in a thread, beside something that waits for other processes.

    Args:
        load: Imports, and returns what is wanted of it.
    """

    def quickly() -> Result:
        with loading():
            return load()

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="import")
    try:
        return pool.submit(quickly)
    finally:
        pool.shutdown(wait=False)
