"""Memory that a process has freed and its C library keeps, given back to the system."""

import contextlib
import ctypes


def give_back() -> None:
    """Give back the pages of freed blocks, where the C library is glibc; elsewhere do nothing.

    Threads that read a checkpoint have heaps of their own, which no other thread allocates from:
    what is freed there after weights were copied or moved would stay with the process for good.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
