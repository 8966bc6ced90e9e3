"""What a failure is mended by from afar: the machine, ends of logs, stacks of what hung."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rollout.processes import descendants
from rollout.stack_traces import NONE_CAME, describe

TOLD = ("CUDA", "LD_LIBRARY_PATH", "NCCL", "NVIDIA", "OMP", "PYTORCH", "RAY", "TORCH", "TRITON",
        "VLLM")  # fmt: skip
"""How the variables begin that are told."""
SECRET = re.compile("KEY|PASS|SECRET|TOKEN")
"""In the name of a variable that is not."""
MOST_LOGS = 6
MOST_LETTERS = 4000
"""Of a log, from its end."""


def machine() -> dict[str, Any]:
    """Describe this machine.

    Returns:
        Python, the system, its memory and /dev/shm in bytes, what kernels are compiled with,
        variables that decide about GPUs, all installed packages and what `nvidia-smi` prints.
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return {
        "python": sys.version,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": pages,
        "free_shm_bytes": shutil.disk_usage("/dev/shm").free,
        "compilers": {name: shutil.which(name) for name in ("gcc", "g++", "nvcc", "ninja")},
        "python_headers": headers.exists(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(TOLD) and not SECRET.search(name)
        },
        "packages": sorted({f"{each.name}=={each.version}" for each in distributions()}),
        "nvidia_smi": _nvidia_smi(),
    }


def _nvidia_smi() -> str:
    try:
        asked = subprocess.run(("nvidia-smi",), capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return asked.stdout + asked.stderr


def ends_of_logs(since: float) -> dict[str, str]:
    """Read what the actors of the newest Ray cluster here logged last, engines' processes included.

    Args:
        since: When the part that failed began, seconds since the epoch; an older cluster is not
            its own.

    Returns:
        By file the end of those written to last.
    """
    # Where Ray has its folder.
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    logs = Path(place, "ray", "session_latest").resolve() / "logs"
    files = [(_written(file), file) for file in logs.glob("worker-*") if _says_something(file)]
    newest = sorted(each for each in files if each[0] >= since)[-MOST_LOGS:]
    return {file.name: end_of(file) for _, file in newest}


def _says_something(file: Path) -> bool:
    """Whether there is more in it than the lines by which Ray knows whose it is."""
    return any(not line.startswith(":") for line in end_of(file).splitlines())


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def end_of(file: Path) -> str:
    """Read the last letters of a text; "" where it has none, or there is no file."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 4 * MOST_LETTERS))
            return opened.read().decode(errors="replace")[-MOST_LETTERS:].strip()
    except OSError:
        return ""


def stacks(pid: int) -> list[str]:
    """Say where a process is, and all that it started; see `rollout.stack_traces.describe`."""
    pids = [pid, *(process.pid for process in descendants(pid))]
    found = (describe(each) for each in pids)
    return [text[-MOST_LETTERS:] for text in found if NONE_CAME not in text]
