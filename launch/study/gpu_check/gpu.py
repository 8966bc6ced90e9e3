"""What `nvidia-smi` says of the first visible GPU, without a CUDA context in this process."""

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
    used_bytes: int


def one_gpu() -> Gpu | None:
    """Ask for the first GPU that is not hidden from programs; None without one."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first in ("", "-1"):
        return None
    if first.startswith("MIG-"):
        # Parts are not asked for by name; which GPU it is of is not known.
        first = "0"
    try:
        asked = subprocess.run(
            [*_ASK, f"--id={first}"], capture_output=True, text=True, timeout=20, check=True
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
    return Gpu(name, driver, int(total) * 2**20, int(used) * 2**20)
