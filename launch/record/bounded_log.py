"""A file of lines by steps that stops growing: the longer a run, the fewer of its steps stay in it.

    steps 1 2 3 4 5 6 7 8 --more than 4--> 1 3 5 7 (8) --more than 4--> 1 5 9 13 (14)

All steps stay until there are too many; then those an even number of steps after step 1, then
those four steps apart, and so on. The newest step is always there: the file ends where the run is.

A run that goes on from an earlier step finds some lines of that step's file gone: they were taken
out by later steps that are now lost. They are counted as if they were there, so that the lines are
thinned out again where they were before, and the file ends as that of a run without a stop.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.record.atomic_files import AtomicLines

_STEP = re.compile(rb'\{"step": (\d{1,18})[,}]')


def step_of(line: bytes) -> int | None:
    """Return the step of a line, or of its beginning; None of a line that is none of ours."""
    found = _STEP.match(line)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class _Place:
    step: int
    start: int | None
    """Byte at which its lines begin; None where they are gone but count."""


class BoundedLog:
    """Appends the lines of steps, and takes out steps when there are more than `most`.

    What a step wrote is on disk when `write` returns. Steps of a file that is there already count.

    Args:
        path: The file.
        most: Steps that may stay, the newest included; at least 2.
        state: From `state_dict` as of the last step in the file; nothing for a new file.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the state is none.
    """

    def __init__(self, path: Path, most: int, state: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._most = most
        stride, steps = _checked(state or {"stride": 1, "steps": []})
        self._stride = stride
        self._file = AtomicLines(path)
        starts = _starts_in(path)
        self._places = [_Place(step, starts.get(step)) for step in sorted({*starts, *steps})]

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on from here needs, in JSON's types; no longer than `most`.

        Example: {"stride": 2, "steps": [1, 3, 5, 6]}
        """
        return {"stride": self._stride, "steps": [place.step for place in self._places]}

    def write(self, step: int, lines: Sequence[str]) -> None:
        """Add the lines of one step, which is later than those before.

        A call that failed may be made again.

        Args:
            step: Its number, from 1.
            lines: JSON objects whose first key is the step, without line ends.

        Raises:
            OSError: If they cannot be written.
        """
        if not self._places or self._places[-1].step != step:
            self._drop_newest()
            content = "".join(f"{line}\n" for line in lines).encode()
            self._places.append(_Place(step, self._file.append(content)))
        if len(self._places) > self._most:
            self._take_out()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _stays(self, step: int) -> bool:
        return (step - 1) % self._stride == 0

    def _drop_newest(self) -> None:
        """Take out the last step if it was there as the newest only."""
        if self._places and not self._stays(self._places[-1].step):
            start = self._places[-1].start
            if start is not None:
                self._file.truncate(start)
            self._places.pop()

    def _take_out(self) -> None:
        *older, newest = self._places
        stride = self._stride
        while len(older) + 1 > self._most:
            stride *= 2
            older = [place for place in older if (place.step - 1) % stride == 0]
        content = self._path.read_bytes()
        starts = sorted(place.start for place in self._places if place.start is not None)
        ends = dict(zip(starts, [*starts[1:], len(content)], strict=True))
        parts, places, size = [content[: starts[0]]], [], starts[0]
        for place in (*older, newest):
            if place.start is None:
                places.append(place)
                continue
            parts.append(content[place.start : ends[place.start]])
            places.append(_Place(place.step, size))
            size += len(parts[-1])
        self._file.replace(parts)
        self._stride, self._places = stride, places


def _starts_in(path: Path) -> dict[int, int]:
    """Byte at which the lines of each step begin; a line that is none of ours stays where it is."""
    starts: dict[int, int] = {}
    start = 0
    with path.open("rb") as file:
        for line in file:
            step = step_of(line)
            if step is not None:
                starts.setdefault(step, start)
            start += len(line)
    return starts


def _checked(state: Mapping[str, Any]) -> tuple[int, list[int]]:
    stride, steps = state.get("stride"), state.get("steps")
    numbers = [stride, *steps] if isinstance(steps, list) else [None]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(
            "the state of a thinned file must be stride and steps, whole numbers from 1, got "
            f"{dict(state)!r:.200}"
        )
    assert isinstance(stride, int) and isinstance(steps, list)
    return stride, steps
