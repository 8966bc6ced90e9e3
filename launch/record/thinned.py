"""A file of lines by steps that stops growing: the longer a run, the fewer of its steps stay in it.

    steps 1 2 3 4 5 6 7 8 --more than 4--> 1 3 5 7 (8) --more than 4--> 1 5 9 13 (14)

All steps stay until there are too many; then those an even number of steps after step 1, then
those four steps apart, and so on. The newest step is always there: the file ends where the run is.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEP = b'{"step": '
"""How each line begins."""


@dataclass(frozen=True, slots=True)
class _Place:
    step: int
    start: int
    """Byte at which its lines begin."""


class ThinnedFile:
    """Appends the lines of steps, and takes out steps when there are more than `most`.

    What a step wrote is on disk when `write` returns. Steps of a file that is there already count.

    Args:
        path: The file.
        most: Steps that may stay, the newest included; at least 2.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._stride = 1
        self._file = path.open("ab")
        self._places = _places_in(path.read_bytes())

    def write(self, step: int, lines: Sequence[str]) -> None:
        """Add the lines of one step, which is later than those before.

        Args:
            step: Its number, from 1.
            lines: JSON objects whose first key is the step, without line ends.
        """
        if self._places and not self._stays(self._places[-1].step):
            # It was there as the newest only.
            self._file.truncate(self._places.pop().start)
        self._places.append(_Place(step, self._file.seek(0, os.SEEK_END)))
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        if len(self._places) > self._most:
            self._take_out()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _stays(self, step: int) -> bool:
        return (step - 1) % self._stride == 0

    def _take_out(self) -> None:
        *older, newest = self._places
        while len(older) + 1 > self._most:
            self._stride *= 2
            older = [place for place in older if self._stays(place.step)]
        kept = {place.start for place in (*older, newest)}
        content = self._path.read_bytes()
        ends = [*(place.start for place in self._places[1:]), len(content)]
        parts = [
            content[place.start : end]
            for place, end in zip(self._places, ends, strict=True)
            if place.start in kept
        ]
        # Whoever reads meanwhile, or after a crash, finds the old lines or the new ones.
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_bytes(b"".join(parts))
        self._file.close()
        partial.replace(self._path)
        self._file = self._path.open("ab")
        self._places = _places_in(b"".join(parts))


def _places_in(content: bytes) -> list[_Place]:
    """Where the lines of each step begin; a line that is none of ours stays with those before."""
    places: list[_Place] = []
    start = 0
    for line in content.splitlines(keepends=True):
        number = line.removeprefix(STEP).partition(b",")[0]
        if line.startswith(STEP) and number.isdigit():
            step = int(number)
            if not places or places[-1].step != step:
                places.append(_Place(step, start))
        start += len(line)
    return places
