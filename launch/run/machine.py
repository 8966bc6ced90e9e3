"""What a machine must have, beside Python packages, for a cluster and for an engine on CPUs."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from launch.cli.refusals import UserError

LEAST_SHARED_BYTES = 128 * 2**20
"""What /dev/shm must have free for Ray's object store, which takes no less than 75 MiB."""
SHARED_PART = 0.9
"""Of what is free there; engines exchange messages in the rest."""
STORE_PART = 0.3
"""Of the memory that Ray takes for its object store by itself."""
LARGEST_STORE = 200 * 10**9
"""Bytes that it takes at most."""
LEAST_ADDRESSES = 2**32
"""Bytes of addresses that a process needs beside the object store, which each of them maps."""
LEAST_FILES = 1024
MOST_FILES = 65_536
"""Open files of a process: a cluster of one engine and one learner takes several hundred."""


def raise_open_files(limits: Any = resource) -> None:
    """Let this process and those it starts open as many files as a cluster needs.

    Args:
        limits: The module `resource`, or what stands for it.

    Raises:
        UserError: If the hard limit does not allow it.
    """
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    unlimited = limits.RLIM_INFINITY
    reachable = MOST_FILES if hard == unlimited else min(hard, MOST_FILES)
    if reachable < LEAST_FILES:
        raise UserError(
            f"open files must be allowed up to {LEAST_FILES} for a process that starts a cluster; "
            f"raise the hard limit (ulimit -Hn), got {hard}"
        )
    if soft != unlimited and soft < reachable:
        limits.setrlimit(limits.RLIMIT_NOFILE, (reachable, hard))


def store_options(free: int, memory: int) -> dict[str, int]:
    """Return what makes Ray's object store fit into /dev/shm; on disk it would be slow.

    Args:
        free: Bytes free there.
        memory: Bytes of the machine.

    Raises:
        UserError: If too little is free for any store.
    """
    if free < LEAST_SHARED_BYTES:
        raise UserError(
            f"/dev/shm must have {LEAST_SHARED_BYTES // 2**20} MiB free for Ray's object store; "
            "end what fills it, remount it larger or start the container with --shm-size=2g, got "
            f"{free / 2**20:.0f} MiB"
        )
    room = int(free * SHARED_PART)
    return {"object_store_memory": room} if room < memory * STORE_PART else {}


def require_addresses(store: float, limits: Any = resource) -> None:
    """Refuse a limit on addresses with which a process could not map Ray's object store.

    Ray itself would wait for such a process without a word.

    Args:
        store: Bytes of the object store.
        limits: The module `resource`, or what stands for it.

    Raises:
        UserError: If the limit is too low.
    """
    limit, _ = limits.getrlimit(limits.RLIMIT_AS)
    least = int(min(store, LARGEST_STORE)) + LEAST_ADDRESSES
    if limit != limits.RLIM_INFINITY and limit < least:
        raise UserError(
            f"a process must be allowed {least // 2**10} kB of addresses, for Ray's object store "
            f"and itself; raise the limit (ulimit -v), got {limit // 2**10}"
        )


def memory_bytes(root: Path = Path("/")) -> float:
    """Return the memory that this process may use, in bytes: the machine's, or less where limited.

    Containers, Slurm and systemd set limits on control groups, of which those around a group count
    too.

    Args:
        root: Where proc and sys are.
    """
    found = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for limit in _memory_limits(root):
        # A container of version 1 does not see its group at the path that it is told; "max" is
        # version 2's word for none.
        with suppress(OSError, ValueError):
            found.append(float(limit.read_text()))
    return min(found)


def _memory_limits(root: Path) -> Iterator[Path]:
    """Name the files with the limits of this process's control groups, in version 2 and in 1."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, name = top / "memory", "memory.limit_in_bytes"
        elif not controllers:
            base, name = top, "memory.max"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        yield from (base / each / name for each in (group, *group.parents))


def lacking_for_engines(*, compiling: bool) -> list[str]:
    """List what an engine on CPUs needs and this machine lacks, each with its remedy.

    Args:
        compiling: Whether the engine compiles the model at its start, for which torch calls a C++
            compiler.
    """
    found = []
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        found.append(
            "the library libnuma.so.1 (package libnuma1 of Debian and Ubuntu, numactl-libs of "
            "Fedora)"
        )
    if not compiling:
        return found
    compiler = os.environ.get("CXX", "g++")
    headers = Path(sysconfig.get_paths()["include"])
    without = "or set rollout.engine.enforce_eager=true"
    if shutil.which(compiler) is None:
        found.append(f"the C++ compiler {compiler} (install g++, {without})")
    if not (headers / "Python.h").exists():
        package = f"python{sysconfig.get_python_version()}-dev of Debian and Ubuntu"
        found.append(f"Python's headers in {headers} (package {package}, {without})")
    return found
