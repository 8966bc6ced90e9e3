"""A run that goes on after a stop: which restarts it had, and its folder as of an earlier step.

    stop after step 43, checkpoint of step 40
    -> note_restart: restarts.json gets {step: 40, lost_steps: 3, ...}
    -> cut_back: metrics, samples, cells and evaluations are those of step 40
    -> trackers and summary go on from their states of step 40

Lost steps are counted from the metrics, hence noted before these are cut.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from launch.cli.refusals import UserError
from launch.record.atomic_files import remove_leftovers, write_atomically
from launch.record.bounded_log import step_of
from launch.record.evaluation_file import was_there
from launch.record.json_file import write_json
from launch.record.notices import why
from launch.record.run_folder import (
    BEST,
    CELLS,
    EVALUATIONS,
    METRICS,
    PICTURE,
    RESPONSES_FOLDER,
    RESTARTS,
    SAMPLES,
    SUMMARY,
    read_json,
    refused,
)

LONGEST_REASON = 300
"""Characters of a reason."""
PART_BYTES = 2**20
"""Of a line that are in memory at once."""
_AFTERWARDS = re.compile(rb'\{"step": \d{1,18}, "time": [^,]{1,30}, "evaluation/')
"""How metrics begin that are of an evaluation alone (`launch.record.run_folder.is_afterwards`)."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999, beyond which no calendar goes."""


@dataclass(frozen=True, slots=True)
class Restart:
    """One time that a run went on after a stop.

    Example: it was ended by a signal after step 43, and its last checkpoint was of step 40.

        Restart(
            step=40,
            lost_steps=3,
            time=1_790_000_000.0,
            reason="resumed after SIGTERM",
            changed={"learner.lr": (7e-05, 5e-05)},
        )
    """

    step: int
    """Batches learned that it went on from; step + 1 was the next."""
    lost_steps: int
    """Steps after it that had been taken and were taken anew."""
    time: float
    """When it went on, seconds since the epoch."""
    reason: str
    """One line."""
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """By key of the configuration its old and its new value, in JSON's types."""


def note_restart(
    run_dir: Path,
    *,
    step: int,
    reason: str,
    changed: Mapping[str, Sequence[Any]] | None = None,
    now: float | None = None,
) -> Restart:
    """Add a restart to `restarts.json`, before the folder is cut back, and return it.

    Args:
        run_dir: The run folder.
        step: Batches learned that the run goes on from.
        reason: Why it had stopped; put into one line.
        changed: By key the old and the new value.
        now: Seconds since the epoch; the clock's unless given.

    Raises:
        UserError: If the restarts that there are cannot be read, or the file cannot be written.
    """
    before = read_restarts(run_dir)
    restart = Restart(
        step=step,
        lost_steps=max(_last_step(run_dir) - step, 0),
        time=time.time() if now is None else now,
        reason=" ".join(reason.split())[:LONGEST_REASON],
        changed={key: (old, new) for key, (old, new) in (changed or {}).items()},
    )
    with _writing(run_dir):
        write_json(run_dir / RESTARTS, [asdict(each) for each in (*before, restart)])
    return restart


def read_restarts(run_dir: Path) -> list[Restart]:
    """Return the restarts of a run in the order in which they were; empty if it had none.

    Raises:
        UserError: If `restarts.json` holds anything else.
    """
    if not (run_dir / RESTARTS).exists():
        return []
    records = read_json(run_dir, RESTARTS)
    if not isinstance(records, list):
        raise refused(run_dir, f"{RESTARTS} is not a list; remove it to forget the restarts")
    return [_restart(run_dir, number, record) for number, record in enumerate(records, start=1)]


def first_steps_after(restarts: Sequence[Restart], steps: Sequence[float]) -> list[int]:
    """Return the positions of the steps with which a run went on, rising and each once.

    Args:
        restarts: Of the run.
        steps: [T] numbers of its steps, rising.
    """
    positions = set()
    for restart in still_seen(restarts):
        after = next((at for at, step in enumerate(steps) if step > restart.step), None)
        # Where a run began anew, or has not gone on, nothing lies before or after the gap.
        if after:
            positions.add(after)
    return sorted(positions)


def still_seen(restarts: Sequence[Restart]) -> list[Restart]:
    """Return those that no later one, from an earlier step, took away with the steps after them."""
    seen: list[Restart] = []
    for restart in restarts:
        seen = [before for before in seen if before.step <= restart.step]
        seen.append(restart)
    return seen


def _step_was_there(line: bytes, step: int) -> bool:
    """Whether a line of a step had been written when a step was over; others were always there."""
    of = step_of(line)
    return of is None or of <= step


LINES: Mapping[str, Callable[..., bool]] = {
    EVALUATIONS: was_there,
    SAMPLES: _step_was_there,
    CELLS: _step_was_there,
    METRICS: _step_was_there,
}
"""Files of lines, and which lines had been there when a step was over."""


def cut_back(run_dir: Path, step: int, *, going_on: bool = False) -> None:
    """Make a run folder what it was after a step, so that the run can go on from there.

    Lines of later steps go, and a last line without its end; a line that is no step's stays where
    it is. Evaluations go that ended at a later version, and those after training. The results and
    the picture of the end go: the run has not ended. Each file is whole at any moment, old or new;
    cutting again what was cut, or what a crash left in the middle, gives the same.

    Args:
        run_dir: The run folder, in which nobody writes.
        step: Batches learned; -1 for a run that begins once more, of which nothing is told.
        going_on: Whether an evaluation went on then, or was cut off: what it found later goes.

    Raises:
        UserError: If there is no such folder, or a file cannot be written.
    """
    if not run_dir.is_dir():
        raise refused(run_dir, "there is no such folder")
    with _writing(run_dir):
        _cut_back(run_dir, step, going_on)


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"run_dir must be writable, got {str(run_dir)!r}: {why(error)}") from error


def _cut_back(run_dir: Path, step: int, going_on: bool) -> None:
    for name in (SUMMARY, PICTURE, RESTARTS, *LINES):
        remove_leftovers(run_dir / name)
    of_whole_run = (RESTARTS, BEST) if step < 0 else ()
    for name in (SUMMARY, PICTURE, *of_whole_run):
        (run_dir / name).unlink(missing_ok=True)
    for file in (run_dir / RESPONSES_FOLDER).glob("step-*.jsonl"):
        if file.stem[5:].isdecimal() and int(file.stem[5:]) > step:
            file.unlink()
    for name, stays in LINES.items():
        if (run_dir / name).exists():
            _cut_lines(run_dir / name, partial(stays, step=step))
    if going_on and (run_dir / METRICS).exists():
        # One that ended after an earlier step was known then.
        _cut_lines(
            run_dir / METRICS, lambda line: step_of(line) != step or not _AFTERWARDS.match(line)
        )


def _cut_lines(path: Path, stays: Callable[[bytes], bool]) -> None:
    with path.open("rb") as file:
        spans = _staying(file, stays) or [(0, 0)]
        if spans == [(0, path.stat().st_size)]:
            return
        if len(spans) == 1 and spans[0][0] == 0:
            # So it is as a rule, and a full disk allows it too.
            os.truncate(path, spans[0][1])
        else:
            write_atomically(path, _parts(file, spans))


def _staying(file: BinaryIO, stays: Callable[[bytes], bool]) -> list[tuple[int, int]]:
    """First byte and end of what was there, in whole lines and as few as can be."""
    spans: list[tuple[int, int]] = []
    start = end = 0
    stayed = True
    while part := file.readline(PART_BYTES):
        if start == end:
            stayed = stays(part)
        end += len(part)
        if part.endswith(b"\n"):
            if stayed and spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            elif stayed:
                spans.append((start, end))
            start = end
    return spans


def _parts(file: BinaryIO, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    for start, end in spans:
        file.seek(start)
        while start < end and (part := file.read(min(PART_BYTES, end - start))):
            start += len(part)
            yield part


def _last_step(run_dir: Path) -> int:
    """The largest step in the metrics, one cut short included; 0 without one."""
    path, largest, starts = run_dir / METRICS, 0, True
    if not path.exists():
        return 0
    with path.open("rb") as file:
        while part := file.readline(PART_BYTES):
            if starts:
                largest = max(largest, step_of(part) or 0)
            starts = part.endswith(b"\n")
    return largest


def _restart(run_dir: Path, number: int, record: object) -> Restart:
    """One entry of the file, checked."""
    found: Mapping[str, Any] = record if isinstance(record, dict) else {}

    def needed(key: str, what: str, fits: Callable[[Any], bool]) -> Any:
        value = found.get(key)
        if not fits(value):
            raise refused(
                run_dir,
                f"{key} of restart {number} in {RESTARTS} must be {what}; "
                "remove the file to forget the restarts",
            )
        return value

    def counts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def pairs(value: Any) -> bool:
        return isinstance(value, dict) and all(
            isinstance(pair, list) and len(pair) == 2 for pair in value.values()
        )

    return Restart(
        step=needed("step", "a whole number from 0", counts),
        lost_steps=needed("lost_steps", "a whole number from 0", counts),
        time=float(needed("time", "seconds since the epoch", _is_moment)),
        reason=" ".join(needed("reason", "text", lambda value: isinstance(value, str)).split()),
        changed={
            key: (old, new)
            for key, (old, new) in needed("changed", "old and new by key", pairs).items()
        },
    )


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LAST_SECOND
