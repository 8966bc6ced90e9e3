"""How contestants take turns, and what is said about their repetitions.

    warm-ups, then A B A B A B ...

Machines are shared, and their speed drifts by more than what is measured. Only figures taken in
turns within one run are compared.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")
FEWEST_REPETITIONS = 2
"""Made however long they take."""
MOST_SECONDS = 60.0
"""For all turns of a comparison; what the fewest repetitions take beyond is taken."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One repetition of one contestant."""

    contestant: str
    measured: bool
    """False for a warm-up, whose time is thrown away."""


def turns(contestants: Sequence[str], *, repetitions: int, warm_ups: int) -> Iterator[Turn]:
    """Yield the turns of all contestants, each in the given order within a repetition.

    Example: turns(["a", "b"], repetitions=2, warm_ups=0) yields a, b, a, b.
    """
    for repetition in range(warm_ups + repetitions):
        for contestant in contestants:
            yield Turn(contestant, repetition >= warm_ups)


@dataclass(frozen=True, slots=True)
class Timed(Generic[Result]):
    """Measured repetitions by contestant, in their order."""

    last: dict[str, Result]
    """What each returned the last time."""
    seconds: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each."""
        return {name: statistics.median(taken) for name, taken in self.seconds.items()}


def time_in_turns(
    run: Mapping[str, Callable[[], Result]],
    *,
    repetitions: int,
    warm_ups: int,
    most_seconds: float = MOST_SECONDS,
) -> Timed[Result]:
    """Call the contestants in turns and time them.

    After `most_seconds` the warm-ups end, and so do repetitions beyond the second.
    """
    timed: Timed[Result] = Timed({}, {name: [] for name in run})
    start = time.monotonic()
    for turn in turns(list(run), repetitions=repetitions, warm_ups=warm_ups):
        name = turn.contestant
        enough = not turn.measured or len(timed.seconds[name]) >= FEWEST_REPETITIONS
        if name == next(iter(run)):
            skipped = enough and time.monotonic() - start > most_seconds
        if skipped:
            continue
        began = time.monotonic()
        timed.last[name] = run[name]()
        if turn.measured:
            timed.seconds[name].append(time.monotonic() - began)
    return timed


def ratio_of_medians(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Divide one contestant's median by the other's.

    Args:
        over: Measurements of the contestant in the numerator, in the order of the repetitions.
        under: Those of the other, of the same repetitions.

    Returns:
        `ratio` of the medians; and the `smallest`, `middle` and `largest` of the ratios within one
        repetition, which a drift of the machine's speed moves less.
    """
    paired = [a / b for a, b in zip(over, under, strict=True)]
    return {
        "ratio": statistics.median(over) / statistics.median(under),
        "smallest": min(paired),
        "middle": statistics.median(paired),
        "largest": max(paired),
    }


def load_average() -> list[float]:
    """Return how many processes wanted a CPU, averaged over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
