"""The processes of one trial, and nobody else's.

The driver is started with a variable of its own, which all that it starts inherit; whoever has it,
or descends from the driver, is of the trial.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from launch.study.chaos.strikes import DRIVER, part_of
from rollout.processes import Process, belongs, command, descendants, every, look, shared_memory

VARIABLE = "COST_AWARE_RL_TRIAL"
POLL_SECONDS = 0.2


class Session:
    """What runs of one trial.

    Args:
        folder: Of the trial, absolute; names it for good.
    """

    def __init__(self, folder: Path) -> None:
        self.mark = f"{VARIABLE}={folder}"
        self.blocks: set[Path] = set()
        """Named blocks of shared memory that its processes were seen to hold."""

    def processes(self, driver: int | None = None) -> list[Process]:
        """Return those that have not ended; a zombie has."""
        children = {process.pid for process in descendants(driver)} if driver else set()
        return [
            process
            for process in every()
            if process.pid in children or process.pid == driver or belongs(process.pid, self.mark)
        ]

    def note_blocks(self, driver: int) -> None:
        """Take in which shared memory is held now."""
        for process in self.processes(driver):
            self.blocks |= shared_memory(process.pid)

    def find(self, part: str, driver: int, rng: np.random.Generator) -> Process | None:
        """Return a random one of the processes that are a part; None if there is none."""
        if part == DRIVER:
            return look(driver)
        found = [p for p in self.processes(driver) if part_of(command(p.pid)) == part]
        return found[int(rng.integers(len(found)))] if found else None

    def leftovers(self, grace_seconds: float) -> list[str]:
        """Return what is left after the driver's end and some grace, processes and blocks."""
        deadline = time.monotonic() + grace_seconds
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return left

    def end(self) -> None:
        """Kill whatever is left, and remove its shared memory."""
        for process in self.processes():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        for block in self.blocks:
            block.unlink(missing_ok=True)

    def _left(self) -> list[str]:
        processes = [f"{p.pid} {command(p.pid)[:80]}" for p in self.processes()]
        return processes + sorted(str(block) for block in self.blocks if block.exists())
