"""What `nvidia-smi` says of the first GPU to be seen, without a CUDA context in this process."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_ASK = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used",
        "--format=csv,noheader,nounits")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment.

    Example:
        Gpu(name="NVIDIA A100", driver="580.65", total_bytes=85899345920, used_bytes=5242880)
    """

    name: str
    driver: str
    total_bytes: int
    """0 where `nvidia-smi` does not know, as of parts of a GPU."""
    used_bytes: int


def first_visible() -> str:
    """Name the first GPU as CUDA_VISIBLE_DEVICES does; "" or a negative number where it hides all.

    A check's processes see this one alone. Of more they would use others beside it.
    """
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


def one_gpu() -> Gpu | None:
    """Ask for the first GPU that is to be seen; None without one."""
    visible = first_visible()
    # It is not asked by the name of a part (MIG): the first GPU stands for the one that is cut up.
    gpu = "0" if visible.startswith("MIG") else visible
    if not gpu or gpu.startswith("-"):
        return None
    try:
        asked = subprocess.run(
            (*_ASK, f"--id={gpu}"), capture_output=True, text=True, timeout=20, check=True
        )
        return parsed(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def parsed(line: str) -> Gpu:
    """Read the line that `nvidia-smi` answers with.

    Raises:
        ValueError: If it is something else.
    """
    name, driver, total, used = (part.strip() for part in line.strip().rsplit(",", 3))
    return Gpu(name, driver, _bytes(total), _bytes(used))


def _bytes(mebibytes: str) -> int:
    """Read a size; 0 of what is unknown, which is in brackets, such as "[N/A]"."""
    return 0 if mebibytes.startswith("[") else int(mebibytes) * 2**20
