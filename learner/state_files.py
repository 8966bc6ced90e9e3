"""A learner's state as files: safetensors with pieces of tensors, and JSON that says what they are.

    FOLDER/learner.json                       counts, the optimiser, what is kept of each parameter
    FOLDER/rank-00000-of-00002.safetensors    what rank 0 of 2 wrote

Every tensor is cut flat, in C order, into pieces `what/parameter/first element`. What is `weights`
(those that the optimiser steps on), `state.` and the optimiser's key, or `random`. Whoever reads
asks for ranges of tensors and need not know how many ranks wrote them, nor in which ZeRO stage.
Nothing is pickled.
"""

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.state_description import DESCRIPTION, LearnerState

WEIGHTS = "weights"
STATE = "state."
RANDOM = "random"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""torch's dtypes by their names in safetensors."""


def piece_name(what: str, parameter: str, first: int) -> str:
    """Name the piece of a tensor that begins with its element `first`, counted flat."""
    return f"{what}/{parameter}/{first}"


def random_name(kind: str, rank: int) -> str:
    """Name a random generator, `cpu` or `cuda`, of a rank, where a parameter's name stands."""
    return f"{kind}.{rank}"


def file_of(rank: int, num_ranks: int) -> str:
    """Name a rank's file."""
    return f"rank-{rank:05d}-of-{num_ranks:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write flat tensors [n] on the CPU as safetensors; returns when they are on the disk.

    safetensors' own writer hides the number of an OSError.

    Raises:
        OSError: If the disk is full, say.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def write_share(
    folder: Path, rank: int, state: LearnerState, tensors: Mapping[str, Tensor]
) -> None:
    """Write what a rank writes: its tensors, and on rank 0 `learner.json`.

    Raises:
        OSError: If the disk is full, say.
    """
    write_tensors(folder / file_of(rank, state.num_ranks), tensors)
    if rank == 0:
        with (folder / DESCRIPTION).open("w", encoding="utf-8") as file:
            file.write(state.to_json())
            file.flush()
            os.fsync(file.fileno())
    # The names of the files, too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class BackgroundWriter:
    """Writes a rank's shares while the rank goes on training, one after the other."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def begin(
        self, folder: Path, rank: int, state: LearnerState, tensors: Mapping[str, Tensor]
    ) -> None:
        """Begin to write; see `write_share`. An earlier share is written first.

        Args:
            folder: It exists.
            rank: Whose share it is.
            state: What there is.
            tensors: Nobody changes them any more.
        """
        if self._thread is not None:
            self._thread.join()

        def write() -> None:
            try:
                write_share(folder, rank, state, tensors)
            except Exception as error:
                self._error = error

        self._error = None
        self._thread = threading.Thread(target=write, daemon=True)
        self._thread.start()

    def outcome(self) -> tuple[bool, Exception | None]:
        """Return at once whether the latest share is written, and what kept it from it."""
        done = self._thread is None or not self._thread.is_alive()
        return done, self._error if done else None


@dataclass(frozen=True, slots=True)
class _Piece:
    first: int
    end: int
    file: Any
    name: str


class StateFiles:
    """Reads ranges of tensors from the ranks' files, without reading the rest; see `opened`."""

    def __init__(self, folder: Path, files: Mapping[Path, Any]) -> None:
        self._folder = folder
        self._pieces: dict[tuple[str, str], list[_Piece]] = {}
        for path, file in files.items():
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                try:
                    what, rest = name.split("/", 1)
                    parameter, first = rest.rsplit("/", 1)
                    begin = int(first)
                except ValueError:
                    raise ValueError(f"{path} has a tensor that is no piece: {name!r}") from None
                end = begin + math.prod(file.get_slice(name).get_shape())
                piece = _Piece(begin, end, file, name)
                self._pieces.setdefault((what, parameter), []).append(piece)
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.first)

    def has(self, what: str, parameter: str) -> bool:
        """Whether there is a piece of a tensor."""
        return (what, parameter) in self._pieces

    def read(self, what: str, parameter: str, first: int, length: int) -> Tensor:
        """Read the elements [length] from `first` on, on the CPU.

        Raises:
            ValueError: If they are not all there.
        """
        parts = []
        at, end = first, first + length
        for piece in self._overlapping(what, parameter, first, end):
            stop = min(end, piece.end)
            part: Tensor = piece.file.get_slice(piece.name)[at - piece.first : stop - piece.first]
            parts.append(part)
            at = stop
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def check(self, state: LearnerState) -> None:
        """See that every tensor of a description is there, whole.

        Raises:
            ValueError: If an element is missing.
        """
        for parameter, kept in state.parameters.items():
            layouts = {WEIGHTS: kept.weights}
            layouts |= {STATE + key: layout for key, layout in kept.tensors.items()}
            for what, layout in layouts.items():
                self._overlapping(what, parameter, 0, math.prod(layout.shape))

    def _overlapping(self, what: str, parameter: str, first: int, end: int) -> list[_Piece]:
        """List the pieces that together have the elements, in order."""
        found, at = [], first
        for piece in self._pieces.get((what, parameter), []):
            if piece.first <= at < piece.end and at < end:
                found.append(piece)
                at = piece.end
        if at < end:
            raise ValueError(
                f"{self._folder} must hold the whole {what} of {parameter}, "
                f"but elements from {at} to {end - 1} are missing"
            )
        return found


@contextmanager
def opened(folder: Path, num_ranks: int) -> Iterator[StateFiles]:
    """Open the files that a number of ranks wrote.

    Raises:
        ValueError: If one is missing or is no safetensors file.
    """
    import safetensors

    with ExitStack() as stack:
        files = {}
        for rank in range(num_ranks):
            path = folder / file_of(rank, num_ranks)
            try:
                files[path] = stack.enter_context(safetensors.safe_open(path, framework="pt"))
            except (OSError, safetensors.SafetensorError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
        yield StateFiles(folder, files)
