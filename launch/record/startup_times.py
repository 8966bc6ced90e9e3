"""How long parts took to start the last time, on this machine and for the same model.

    a part is ready -> seconds in a file of the user's cache -> "27s the last time"

Nothing but what is shown depends on it: a file that is missing, foreign or not writable is no
error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.record.atomic_files import write_atomically

MOST = 256
"""Times that are kept; the oldest go."""


class StartupTimes:
    """Seconds that parts took to start.

    Args:
        of: What they started for, such as a model's folder; times of others say nothing.
        path: The file; by default in the user's cache.

    Example:
        times = StartupTimes("models/chain"); times.took("engines", 1, 13.2)
        times.of("engines", 1) -> 13.2; times.of("engines", 8) -> None
    """

    def __init__(self, of: str, path: Path | None = None) -> None:
        self._of = of
        self._path = path or _in_cache(os.environ)

    def of(self, name: str, total: int) -> float | None:
        """Return how long a part of so many pieces took the last time, in seconds."""
        return self._read().get(self._key(name, total))

    def took(self, name: str, total: int, seconds: float) -> None:
        """Keep how long it took."""
        times = self._read()
        key = self._key(name, total)
        times.pop(key, None)
        times[key] = round(seconds, 1)
        kept = dict(list(times.items())[-MOST:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, [json.dumps(kept, indent=0).encode()])

    def _key(self, name: str, total: int) -> str:
        return f"{self._of} | {name} | {total}"

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: float(value) for key, value in found.items() if _is_time(value)}


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _in_cache(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Of a user without a folder, "~" stays what it is: times are then not kept.
    return Path(os.devnull if cache.startswith("~") else cache) / "cost-aware-rl" / "startup.json"
