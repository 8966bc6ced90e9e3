"""Loading packages, of which a program needs many."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")
UNUSED = ("sklearn", "scipy")
"""What transformers and vLLM import as soon as they load a tokenizer or a model: for a way of
generating, for losses of object detection and for sounds, which nothing here uses."""


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
def without_unused() -> Iterator[None]:
    """Hide `UNUSED`, where nobody has imported them yet, from what is imported meanwhile.

    What is hidden counts as not installed.
    """
    modules: dict[str, Any] = sys.modules
    for name in UNUSED:
        modules.setdefault(name, None)
    try:
        yield
    finally:
        for name in UNUSED:
            if modules.get(name) is None:
                modules.pop(name, None)


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


def expect_no_triton() -> None:
    """Keep vLLM's word out that Triton computes nothing on CPUs, where nothing is computed."""
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)
