"""What is freed leaves the process."""

import ctypes
import platform
from pathlib import Path

import pytest

from learner.freed_memory import give_back

BLOCKS, BYTES = 2000, 64 * 1024


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_below_one_in_use_leave_the_process():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BYTES) for _ in range(BLOCKS)]
    last = libc.malloc(BYTES)
    for block in blocks:
        ctypes.memset(block, 1, BYTES)
        libc.free(block)
    kept = resident_bytes()
    give_back()
    given = kept - resident_bytes()
    libc.free(last)
    assert given > BLOCKS * BYTES / 2


def test_a_c_library_without_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
