"""What the system says of processes: whether they are there, stopped, or at work (Linux's /proc).

Where there is no /proc nothing is known of any process, and nothing is made up. `die_with` asks the
system for the one thing that no process can do for itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SHARED = Path("/dev/shm")
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_GONE = "ZXx"
"""States of what has ended and is only still listed."""
_STATE, _PARENT, _USER, _SYSTEM, _STARTED = 0, 1, 11, 12, 19
"""Fields of /proc/PID/stat, counted from the one behind the name."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has not ended.

    Example:
        Process(pid=4711, parent=4242, state="S", cpu_seconds=12.5, started=98765)
    """

    pid: int
    parent: int
    state: str
    """One letter: R runs or waits for a core, D waits for a device, S sleeps, T is stopped."""
    cpu_seconds: float
    """Time on cores so far, of all threads."""
    started: int
    """Clock ticks since the system's start; with `pid` it names a process for good."""

    @property
    def stopped(self) -> bool:
        """Whether a signal stopped it; a debugger's halt is another state."""
        return self.state == "T"


def look(pid: int, proc: Path = PROC) -> Process | None:
    """Return what a process is doing; None if it has ended.

    Args:
        pid: Its id.
        proc: Where the system lists processes.
    """
    fields = _stat(proc / str(pid) / "stat")
    if fields is None or fields[_STATE] in _GONE:
        return None
    return Process(
        pid=pid,
        parent=int(fields[_PARENT]),
        state=fields[_STATE],
        cpu_seconds=(int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS,
        started=int(fields[_STARTED]),
    )


def threads_at_work(pid: int) -> bool:
    """Say whether a thread of a process runs, or waits for a core or a device."""
    threads = (PROC / str(pid) / "task").glob("[0-9]*/stat")
    with suppress(OSError):
        return any((fields := _stat(path)) and fields[_STATE] in "RD" for path in threads)
    return False


def descendants(pid: int, proc: Path = PROC) -> list[Process]:
    """Return what a process started, and what that started, parents first; without itself."""
    children: dict[int, list[Process]] = {}
    for process in every(proc):
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = [pid]
    while queue:
        own = children.pop(queue.pop(0), [])
        found += own
        queue += [process.pid for process in own]
    return found


def command(pid: int, proc: Path = PROC) -> str:
    """Return a process's command line or title; "" if it has ended."""
    try:
        content = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return content.replace(b"\0", b" ").decode(errors="replace").strip()


def shared_memory(pid: int) -> set[Path]:
    """Return the named blocks and semaphores of Python's multiprocessing that a process holds."""
    try:
        maps = (PROC / str(pid) / "maps").read_text(errors="replace")
    except OSError:
        return set()
    # By number: a semaphore is mapped under the name that it had before its own.
    held = set(re.findall(r" (\w+:\w+ \d+) +/dev/shm/", maps))
    found = set()
    for path in (*SHARED.glob("psm_*"), *SHARED.glob("sem.*")):
        with suppress(FileNotFoundError):
            file = path.stat()
            device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
            if f"{device} {file.st_ino}" in held:
                found.add(path)
    return found


def left_semaphores(pid: int) -> set[Path]:
    """Return the semaphores that a process made through joblib and does not hold.

    joblib makes one when it is imported, and forgets its name where a signal ends the process.
    """
    return set(SHARED.glob(f"sem.loky-{pid}-*")) - shared_memory(pid)


def belongs(pid: int, variable: str) -> bool:
    """Say whether a process, or one that it descends from, was started with NAME=VALUE."""
    try:
        return variable.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def pid_space() -> str:
    """Name the place in which process ids mean the same; "" where nothing is known of them."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def every(proc: Path = PROC) -> Iterator[Process]:
    """List the processes of the system that can be seen from here."""
    for path in proc.glob("[0-9]*"):
        if path.name.isdecimal() and (process := look(int(path.name), proc)) is not None:
            yield process


def _stat(path: Path) -> list[str] | None:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    # The name may hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _STARTED else None


def die_with(parent: int) -> None:
    """Have the kernel kill this process, even inside C code, when its parent ends; on Linux only.

    Args:
        parent: Process id of the parent; one that has ended already ends this process at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
