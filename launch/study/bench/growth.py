"""What grows with the steps of a run: readings at every step, and what they come to.

step -> Readings.take -> memory, CPU seconds, references -> Readings.figures
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cost.types import FloatArray
from launch.record.statistics import Estimate
from rollout.processes import command, descendants

MARKS = (0.1, 0.5, 1.0)
"""Shares of the steps after which figures are given."""
WARM_UP = 0.1
"""Share of the steps that no slope is taken of: caches fill."""
NUM_SEGMENTS = 9
"""Equal parts of the other steps; each has a slope of its own."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(process_id: int | str = "self") -> int:
    """Return the bytes of memory that a process has; 0 if there is none."""
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return 0


def memory_of_tree(root: int) -> dict[str, float]:
    """Return the memory of a process and of all below it, in bytes, by name.

    Processes of one name are added up. Shared pages, such as those of an object store, count with
    each that has touched them.
    """
    found: dict[str, float] = {}
    for process in descendants(root):
        # Ray's workers say after a dot what they are at.
        name = Path(command(process.pid).partition(" ")[0]).name.partition(".")[0]
        found[name] = found.get(name, 0.0) + resident_bytes(process.pid)
    return found


def file_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of what is in a folder, by name; folders in it have those of their files."""
    found: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        # A checkpoint that is being written may be renamed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                name = path.relative_to(folder).parts[0]
                found[name] = found.get(name, 0) + path.stat().st_size
    return found


class Readings:
    """Figures by step, in memory that is taken before the first one.

    Args:
        num_steps: Steps to come.
        folder: Of the run, whose files are measured at the marks.
    """

    def __init__(self, num_steps: int, folder: Path) -> None:
        self._num_steps = num_steps
        self._folder = folder
        self._marks = sorted({max(1, round(share * num_steps)) for share in MARKS})
        self._columns: dict[str, FloatArray] = {}
        self._files: dict[int, dict[str, int]] = {}
        self.num_taken = 0

    def take(self, figures: Mapping[str, float]) -> None:
        """Take in the figures of the step that has just ended."""
        if self.num_taken == self._num_steps:
            return
        for name, value in figures.items():
            if name not in self._columns:
                # All of it is touched, so that it takes no more memory later.
                self._columns[name] = np.full(self._num_steps, np.nan)
            self._columns[name][self.num_taken] = value
        self.num_taken += 1
        if self.num_taken in self._marks:
            self._files[self.num_taken] = file_bytes(self._folder)

    @property
    def names(self) -> list[str]:
        """The columns that there are."""
        return list(self._columns)

    def growth(self, name: str) -> dict[str, Any]:
        """Say what a column of bytes is at the marks, and how it grows."""
        values = self._columns[name][: self.num_taken]
        return {
            "at": {str(mark): values[mark - 1] for mark in self._marks if mark <= len(values)},
            "bytes_per_step": slope(values),
        }

    def spread(self, name: str) -> dict[str, float]:
        """Return median, 99th percentile and largest of a column after the warm-up."""
        values = self._columns[name][: self.num_taken]
        late = values[int(WARM_UP * len(values)) :]
        return {
            "median": float(np.median(late)),
            "p99": float(np.quantile(late, 0.99)),
            "largest": float(late.max()),
        }

    def files(self) -> dict[str, dict[str, float]]:
        """Say how large each file of the run folder is, and how it grew between the last marks."""
        steps = sorted(self._files)
        last = self._files[steps[-1]]
        before, since = ({}, 0) if len(steps) < 2 else (self._files[steps[-2]], steps[-2])
        return {
            name: {
                "bytes": float(size),
                "bytes_per_step": (size - before.get(name, 0)) / (steps[-1] - since),
            }
            for name, size in last.items()
        }


def slope(values: FloatArray) -> dict[str, float | None]:
    """Say by how much [T] readings grow in a step, after the warm-up.

    Memory grows in leaps, so that neighbouring readings say the same. The steps are cut into
    segments and a slope is taken from end to end of each; the interval is Student's t over them.

    Returns:
        The `mean` of the slopes, which is that from end to end of all, and the `half_width` of its
        95% interval; None of too few steps.
    """
    ends = np.linspace(int(WARM_UP * len(values)), len(values) - 1, NUM_SEGMENTS + 1).astype(int)
    if np.any(np.diff(ends) < 1):
        return {"mean": None, "half_width": None}
    found = Estimate.of((np.diff(values[ends]) / np.diff(ends)).tolist())
    return {"mean": found.mean, "half_width": found.half_width}
