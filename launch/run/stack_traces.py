"""What every part of a run was doing when one hung: a file a part in RUN_DIR/stacks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from rollout.heartbeat import Heartbeat
from rollout.processes import descendants, pid_space
from rollout.stack_traces import describe

STACKS = "stacks"
"""Folder in a run's folder."""
MOST_PROCESSES = 20
"""Of one part that are described."""
SECONDS = 10.0
"""Longest wait for all descriptions."""


def write_stacks(folder: Path, reason: str, heartbeats: Mapping[str, Heartbeat | None]) -> str:
    """Describe the processes of parts, each in a file of its own, and return the folder.

    Args:
        folder: Made where it is not there.
        reason: What made one look; it stands at the top of each file.
        heartbeats: By part, its last heartbeat; None where there was none.

    Returns:
        The folder; "" where it cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""

    def write(part: str, heartbeat: Heartbeat | None) -> None:
        path = folder / f"{stamp}-{part.replace(' ', '-')}.txt"
        path.write_text(f"{reason}\n\n{_described(heartbeat)}", encoding="utf-8")

    pool = ThreadPoolExecutor(max_workers=16)
    wait([pool.submit(write, *item) for item in heartbeats.items()], timeout=SECONDS)
    # What is still at it must hold up nobody.
    pool.shutdown(wait=False, cancel_futures=True)
    return str(folder)


def _described(heartbeat: Heartbeat | None) -> str:
    if heartbeat is None:
        return "it has not answered yet\n"
    if heartbeat.space != pid_space():
        return f"process {heartbeat.pid} on another node\n"
    pids = [heartbeat.pid, *(process.pid for process in descendants(heartbeat.pid))]
    return "\n".join(map(describe, pids[:MOST_PROCESSES]))
