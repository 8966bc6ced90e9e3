"""JSON as the run folder has it: numbers that are not finite become null."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from launch.cli.refusals import UserError
from launch.record.atomic_files import write_atomically


def json_ready(value: object) -> object:
    """Turn a value into what strict JSON holds: NaN and infinities become None, arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def require_place(key: str, path: str) -> None:
    """Refuse a file that could not be written, before hours are spent on what goes into it.

    Raises:
        UserError: With the key that names it.
    """
    file = Path(path).absolute()
    if not file.parent.is_dir():
        raise UserError(f"{key} must be a file in a folder that exists, got {path!r}")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise UserError(f"{key} must be a file that can be written, got {path!r}; choose another")


def write_json(path: Path, content: Mapping[str, object] | Sequence[object]) -> None:
    """Write a JSON file that a reader sees whole or not at all.

    Raises:
        OSError: If it cannot be written; what was there stays, and nothing beside it.
    """
    text = json.dumps(json_ready(content), indent=2, allow_nan=False)
    write_atomically(path, [f"{text}\n".encode()])
