"""Where a process is: its state and its threads' stacks, taken from outside, even if it hangs.

process: offer -> on SIGUSR1 every thread's Python stack goes into memory
other process: describe -> the system's view of it, and what is offered
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from rollout.processes import PROC, command, look

SIGNAL = signal.SIGUSR1
LONGEST_STACKS = 60_000
"""Characters of one process's stacks that are kept."""
NONE_CAME = "Python stacks:\nnone came"
"""What is said of a process that offers none, or hangs where no signal reaches it."""
_NAME = "stacks"
_LOOK_SECONDS = 0.05
_STATUS = ("State", "Threads", "VmRSS", "SigPnd", "SigBlk")
_offered: int | None = None


def offer() -> None:
    """Let other processes take this one's stacks; a second call is harmless."""
    global _offered
    if _offered is None and hasattr(os, "memfd_create"):
        # A file without a name, which is gone with the process, however that ends.
        _offered = os.memfd_create(_NAME)
        faulthandler.register(SIGNAL, file=_offered, all_threads=True)


def describe(pid: int, seconds: float = 2.0) -> str:
    """Say what a process of this machine is doing, in lines.

    Args:
        pid: Its id.
        seconds: Longest wait for its Python stacks.
    """
    process = look(pid)
    if process is None:
        return f"process {pid} is gone\n"
    folder = PROC / str(pid)
    status = [line for line in _read(folder / "status").splitlines() if line.startswith(_STATUS)]
    lines = [
        f"process {pid}, {command(pid)[:200]}",
        f"{process.cpu_seconds:.1f} s on cores so far",
        *status,
        f"kernel: waits in {_read(folder / 'wchan') or 'nothing'}",
        _read(folder / "stack"),
    ]
    if process.stopped:
        lines.append("Python stacks: none, for it is stopped")
    else:
        taken = _take(pid, seconds)
        lines.append(f"Python stacks:\n{taken}" if taken else NONE_CAME)
    return "\n".join(lines) + "\n"


def _take(pid: int, seconds: float) -> str:
    """Return what a process answers to the signal; "" where it offers nothing, or is too slow."""
    memory = _memory(pid)
    # Whoever does not expect this signal is ended by it.
    if memory is None:
        return ""
    try:
        before = memory.stat().st_size
        os.kill(pid, SIGNAL)
        found, deadline = before, time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            size = memory.stat().st_size
            if size == found > before:
                break
            found = size
        with memory.open("rb") as file:
            file.seek(before)
            return file.read(LONGEST_STACKS).decode(errors="replace")
    except OSError:
        return ""


def _memory(pid: int) -> Path | None:
    with suppress(OSError):
        for path in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(path).startswith(f"/memfd:{_NAME} "):
                    return path
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
