"""Numbers as a person reads them."""

import math
from collections.abc import Iterable

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def sparkline(values: Iterable[float]) -> str:
    """Draw values as block characters between their own extremes; a gap for NaN."""
    drawn = list(values)
    finite = [value for value in drawn if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, span = min(finite), max(finite) - min(finite)

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return BLOCKS[round((len(BLOCKS) - 1) * (value - low) / span) if span else 0]

    return "".join(block(value) for value in drawn)


def number_text(value: float, digits: int = 3) -> str:
    """Return a number with fixed digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def share_text(value: float) -> str:
    """Return a share in percent; "-" for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"


def count_text(value: float) -> str:
    """Return a count as 182, 18.2k or 1.8M; "-" for NaN."""
    if math.isnan(value):
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def seconds_text(value: float) -> str:
    """Return a duration as 8.1s, 3m12s or 2h05m; "-" for NaN."""
    if math.isnan(value):
        return "-"
    if value < 59.95:
        return f"{value:.1f}s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
