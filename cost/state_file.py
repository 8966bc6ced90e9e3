"""A `state_dict` as one file, written and read without pickle.

    state of dicts, lists, numbers, strings and arrays -> save_state -> file -> load_state -> state

The file is an npz archive: the arrays under the names "0", "1", ..., and under "skeleton" the UTF-8
JSON of all else, in which {"array": k} stands for an array and {"dict": {...}} for a dict.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

_SKELETON = "skeleton"


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
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            skeleton = json.loads(archive[_SKELETON].tobytes())
            state: dict[str, Any] = _filled(skeleton, archive)
            return state
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"path must be a file of save_state, got {os.fspath(path)!r}") from error


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


def _filled(value: Any, archive: Mapping[str, np.ndarray]) -> Any:
    """Put the arrays back."""
    if isinstance(value, list):
        return [_filled(item, archive) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            return archive[str(value["array"])]
        return {name: _filled(item, archive) for name, item in value["dict"].items()}
    return value
