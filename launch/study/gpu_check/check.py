"""Run the parts of a check one after the other, each within its deadline, and gather what came.

part -> process -> its JSON   passed, failed with the end of its stderr, or not begun, with why
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conf.gpu_check import GpuCheckConfig
from launch.cli.signals import SIGNALS
from launch.run.interruption import StoppedError
from launch.study.gpu_check.evidence import end_of, ends_of_logs, machine, stacks
from launch.study.gpu_check.gpu import first_visible, one_gpu
from launch.study.gpu_check.parts import Part, fault_of, figures_of, parts_of

LEAST_SECONDS = 5.0
"""A part is not begun with less left."""
GRACE_SECONDS = 20.0
"""For a part to end in order at its deadline, before it is killed."""
FREE_SECONDS = 20.0
"""For the GPU's memory to be free again after a part that failed, before the next is begun."""
FREE_BYTES = 2**30
"""More than before the part counts as free."""
POLL_SECONDS = 0.5
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "offline",
}


def run_check(
    config: GpuCheckConfig,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Try all parts.

    Args:
        config: Which, on what, and for how long.
        say: Told a line as a part begins and one as it ends.
        keep: Given what is returned at the beginning and after each part, with those to come as
            not begun, whatever ends the check.

    Returns:
        `passed`, `verdict` in words, the GPU, the machine, and by part its status (passed, failed
        or not begun), seconds, peak bytes in use of the whole GPU, command, figures, findings or
        error, and of one that failed what it and its processes said last.
    """
    began = time.monotonic()
    on_gpu = config.device == "gpu"
    gpu = one_gpu() if on_gpu else None
    described = machine()
    found: dict[str, Any] = {}

    def report() -> dict[str, Any]:
        return {
            **verdict_of(found),
            "device": config.device,
            "gpu": None if gpu is None else {"name": gpu.name, "driver": gpu.driver,
                                             "memory_bytes": gpu.total_bytes},
            "machine": described,
            "seconds": time.monotonic() - began,
            "parts": found,
        }  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        parts = parts_of(config, Path(name))
        found |= {part.name: _not_begun(part, "the check ended before it") for part in parts}
        keep(report())
        for part in parts:
            left = config.seconds - (time.monotonic() - began)
            say(f"{part.name}: {shlex.join(part.command[1:])}")
            try:
                if found.get("torch", {}).get("status") == "failed":
                    found[part.name] = _not_begun(part, "torch has no GPU; its part has why")
                else:
                    found[part.name] = tried(part, left, Path(name), on_gpu=on_gpu)
            except StoppedError as stopped:
                found[part.name] |= {"status": "failed", "error": str(stopped)}
                raise
            finally:
                keep(report())
            say(f"{part.name}: {found[part.name]['status']}")
    return report()


def _not_begun(part: Part, why: str) -> dict[str, Any]:
    return {"command": shlex.join(part.command[1:]), "status": "not begun", "error": why}


@contextmanager
def stopping(message: str) -> Iterator[None]:
    """Have the first SIGINT or SIGTERM raise within a block, and the others do nothing.

    What is under way then ends in order, within `GRACE_SECONDS`.

    Args:
        message: What a `StoppedError` says beside the signal.
    """

    def stop(number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(signal.Signals(number), message)

    before = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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


def tried(part: Part, left: float, folder: Path, *, on_gpu: bool) -> dict[str, Any]:
    """Try one part; see `run_check`.

    Args:
        part: Which.
        left: Seconds that the check has left.
        folder: For what its process prints.
        on_gpu: Whether the GPU's memory is watched.
    """
    if left < LEAST_SECONDS:
        return _not_begun(part, "no time was left; raise seconds")
    told: dict[str, Any] = {"command": shlex.join(part.command[1:])}
    seconds = min(part.seconds, left)
    before = one_gpu() if on_gpu else None
    began = time.monotonic()
    out, err = folder / f"{part.name}.out", folder / f"{part.name}.err"
    since = time.time()
    status, peak, where = _run(part.command, seconds, out, err, on_gpu=on_gpu)
    told |= {"seconds": time.monotonic() - began, "deadline_seconds": seconds}
    told |= {"peak_gpu_bytes": peak} if on_gpu else {}
    if before is not None and status != 0:
        wait_until_free(before.used_bytes)
    error = _error_of(status, seconds, err)
    if error is None:
        try:
            findings = json.loads((part.summary or out).read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            error = f"it left no findings: {fault}"
        else:
            error = fault_of(findings)
            told |= {"figures": figures_of(findings), "findings": findings}
    if error is None:
        return told | {"status": "passed"}
    told |= {"stdout": end_of(out), "logs": ends_of_logs(since), "stacks": where}
    return told | {"status": "failed", "error": error}


def wait_until_free(used_bytes: int) -> None:
    """Wait for processes that were killed to give the GPU's memory back; not for long.

    Args:
        used_bytes: Of the GPU before they had any.
    """
    end = time.monotonic() + FREE_SECONDS
    while time.monotonic() < end:
        gpu = one_gpu()
        if gpu is None or gpu.used_bytes <= used_bytes + FREE_BYTES:
            return
        time.sleep(POLL_SECONDS)


def _error_of(status: int | None, seconds: float, err: Path) -> str | None:
    if status == 0:
        return None
    how = f"it took more than {seconds:.0f} s" if status is None else f"exit status {status}"
    return f"{how}: {end_of(err)}"


def _run(
    command: tuple[str, ...], seconds: float, out: Path, err: Path, *, on_gpu: bool
) -> tuple[int | None, int, list[str]]:
    """Run a process.

    Returns:
        Its exit status, None at its deadline; the GPU's peak bytes; where it was at its deadline.
    """
    deadline = time.monotonic() + max(seconds - GRACE_SECONDS, seconds / 2)
    peak, late = 0, False
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | OFFLINE
    if on_gpu:
        # In the order in which `nvidia-smi` counts.
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": first_visible()}
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
        status = process.poll()
        return status, peak, stacks(process.pid) if status is None else []
    finally:
        _end(process, min(GRACE_SECONDS, seconds / 2))


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        if process.poll() is None:
            # Interrupted, it ends the cluster that it started.
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    finally:
        # Whatever is left of its session, by its own number.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
