"""Which numbers a setting takes, said once for every room that has settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

YEAR_SECONDS = 366 * 24 * 3600.0
"""The longest deadline: whoever writes more means that there is none, or has slipped."""


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `least` to `most`, both included unless `above` leaves out the least.

    `most` is where a larger number can only be a slip of the pen; nothing that runs comes near it.
    """

    least: float
    most: float
    above: bool = False

    def fault(self, value: float) -> str | None:
        """Say what a value must be, such as "must be positive", or None for one in the range."""
        if not math.isfinite(value):
            return "must be finite"
        below = value < self.least or (self.above and value == self.least)
        if self.most <= 1 and (below or value > self.most):
            return f"must lie in {'(' if self.above else '['}{self.least:g}, {self.most:g}]"
        if below:
            if self.least == 0:
                return "must be positive" if self.above else "must not be negative"
            return f"must be {'above' if self.above else 'at least'} {self.least:g}"
        if value > self.most:
            return f"must be at most {self.most:.15g}"
        return None


def count(most: float = 1e9) -> Range:
    """Return the range from 1."""
    return Range(1, most)


def amount(most: float = 1e9) -> Range:
    """Return the range from 0."""
    return Range(0, most)


def positive(most: float = 1e9) -> Range:
    """Return the range above 0."""
    return Range(0, most, above=True)


SECONDS = positive(YEAR_SECONDS)
SEED = amount(2**32 - 1)
"""What numpy, torch and vLLM all take."""


def require_ranges(prefix: str, settings: object, ranges: Mapping[str, Range]) -> None:
    """Refuse the first setting outside its range; None is no number and for others to judge.

    Args:
        prefix: What stands before the keys in the configuration, such as "loop.".
        settings: The object that has the settings.
        ranges: By key.

    Raises:
        ValueError: Beginning with the key and ending with the value.
    """
    for key, within in ranges.items():
        value = getattr(settings, key)
        fault = None if value is None else within.fault(value)
        if fault is not None:
            raise ValueError(f"{prefix}{key} {fault}, got {value!r}")
