"""A `state_dict` as one file, written and read without pickle.

    state of dicts, lists, numbers, strings and arrays -> save_state -> file -> load_state -> state

The file is an npz archive: the arrays under the names "0", "1", ..., and under "skeleton" the UTF-8
JSON of all else, in which {"array": k} stands for an array and {"dict": {...}} for a dict. Whoever
may have written it, reading it runs nothing and takes no more memory than the file's own size asks
for: nothing is compressed, no array is larger than its bytes, and none stands in two places.
"""

import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

_SKELETON = "skeleton"
_NPY: Any = np.lib.format
_HEADERS = {(1, 0): _NPY.read_array_header_1_0, (2, 0): _NPY.read_array_header_2_0}
_FAULTS = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OverflowError, RuntimeError,
    OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What a damaged file, or one of somebody else, makes its readers raise; OSError for a place that
lies outside of it."""


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state so that `path` holds a whole one or what was there before.

    Args:
        path: The file, in a folder that exists.
        state: Dicts with string keys, lists, tuples (read back as lists), numbers (NaN and infinity
            included), strings, booleans, None and arrays of any dtype but object, at any depth.

    Raises:
        TypeError: If the state holds anything else; nothing is written then.
    """
    arrays: list[np.ndarray] = []
    skeleton = json.dumps(_plain(state, arrays, "state")).encode()
    entries: dict[str, Any] = {str(position): array for position, array in enumerate(arrays)}
    entries[_SKELETON] = np.frombuffer(skeleton, dtype=np.uint8)
    target = Path(path)
    # Renamed at the end, because a rename happens as a whole or not at all.
    partial = target.with_name(f".{target.name}.{uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **entries)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not of `save_state`.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                arrays = _arrays(archive, size)
            state = _filled(json.loads(arrays.pop(_SKELETON).tobytes()), arrays)
            if not isinstance(state, dict):
                raise ValueError(f"it must hold a dict, got {type(state).__name__}")
            return state
        except _FAULTS as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"path must be a file of save_state ({reason:.200}), got {os.fspath(path)!r}"
            ) from error


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """Read all arrays of an archive of so many bytes by name.

    Raises:
        ValueError: If they say that they are larger, together or one of them.
    """
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its arrays must not be compressed")
    # Entries may overlap.
    if sum(member.file_size for member in members) > size:
        raise ValueError(f"its arrays must lie within its {size} bytes")
    return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        shape, _, dtype = _HEADERS[_NPY.read_magic(stream)](stream)
        described = stream.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.itemsize or min(shape, default=0) < 0 or described != member.file_size:
        raise ValueError(
            f"{member.filename} must hold what its header says, got {dtype} of shape {shape} in "
            f"{member.file_size} bytes"
        )
    with archive.open(member) as stream:
        array: np.ndarray = _NPY.read_array(stream, allow_pickle=False)
        return array


def _plain(value: Any, arrays: list[np.ndarray], key: str) -> Any:
    """Return what JSON can hold and move the arrays to `arrays`."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return _plain(value.item(), arrays, key)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"{key} must have strings for keys, got {list(value)[:3]!r}")
        return {
            "dict": {name: _plain(item, arrays, f"{key}.{name}") for name, item in value.items()}
        }
    if isinstance(value, list | tuple):
        return [_plain(item, arrays, key) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{key} must hold plain data and arrays of numbers, got {value!r}")


def _filled(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Put the arrays back, each where it is named first; a second time there is none."""
    if isinstance(value, list):
        return [_filled(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            return arrays.pop(str(value["array"]))
        return {name: _filled(item, arrays) for name, item in value["dict"].items()}
    return value
