"""`evaluations.jsonl`: a line for every evaluation of a run that is finished.

    {"when": "on the way", "version": 20, "last_version": 20, ...}

The rest is as in `launch.record.evaluation.Evaluation.to_json`.
"""

import json
import re
from pathlib import Path

from launch.record.atomic_files import AtomicLines
from launch.record.evaluation import Evaluation
from launch.record.json_file import json_ready
from launch.record.notices import tell, why
from launch.record.run_folder import EVALUATIONS

_BEGINNING = re.compile(
    rb'\{"when": "([a-z ]+)", "version": \d{1,18}, "last_version": (\d{1,18})[,}]'
)


class EvaluationFile:
    """Appends evaluations; the file is made with the first.

    A write that fails is told of once and ends nothing: the next one writes what is missing.

    Args:
        run_dir: The run folder, cut back to the step that the run goes on from.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVALUATIONS
        self._unwritten = b""
        self._told = False

    @property
    def size(self) -> int:
        """Bytes that are in the file."""
        return self._path.stat().st_size if self._path.exists() else 0

    def forget_after(self, size: int) -> None:
        """Take out what was added behind a number of bytes; a line that is none of ours stays.

        An evaluation that was going on at a step may have ended before the next, and is made again.
        """
        if self.size <= size:
            return
        with self._path.open("rb") as file:
            file.seek(size)
            stay = b"".join(line for line in file if not _BEGINNING.match(line))
        lines = AtomicLines(self._path)
        lines.truncate(size)
        lines.append(stay)
        lines.close()

    def add(self, when: str, found: Evaluation) -> None:
        """Add one; `when` is "before", "on the way" or "after"."""
        record = json_ready({"when": when} | found.to_json())
        self._unwritten += f"{json.dumps(record, allow_nan=False)}\n".encode()
        try:
            self.flush()
        except OSError as error:
            if not self._told:
                tell(
                    f"{EVALUATIONS} could not be written ({why(error)}); the run goes on, and what "
                    "is missing is written with the next evaluation, or at the end"
                )
            self._told = True

    def flush(self) -> None:
        """Write what is missing; OSError if that fails."""
        if self._unwritten:
            lines = AtomicLines(self._path)
            lines.append(self._unwritten)
            lines.close()
            self._unwritten = b""


def was_there(line: bytes, step: int) -> bool:
    """Whether an evaluation had been made when a step was over.

    Args:
        line: Its line, or the beginning of it; one that is none of ours was always there.
        step: Batches learned.
    """
    found = _BEGINNING.match(line)
    return found is None or (found[1] != b"after" and int(found[2]) <= step)
