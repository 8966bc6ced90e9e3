"""When the tools of one group were at work, response by response, for a run's trace.

    samples.jsonl, the engines' slice of a step -> tool_slices -> a lane a response

The seconds of every turn are measured. Where they lie is not known: the turns' generating is taken
to fill the rest of the group's time in parts that are as long as their tokens are many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LANE = "tools of response {}"
NEEDED = ("step",)


@dataclass(frozen=True, slots=True)
class Waited:
    """A response waited for its environment.

    Example: Waited(lane="tools of response 3", start=2.5, seconds=0.2, turn=0, calls=1,
        failed_calls=0)
    """

    lane: str
    start: float
    """Seconds since the epoch."""
    seconds: float
    turn: int
    """From 0, among the policy's."""
    calls: int
    failed_calls: int


def by_step(samples: Sequence[Mapping[str, Any]]) -> dict[int, list[list[Mapping[str, Any]]]]:
    """Return the policy's turns of each response of the first group that was kept of a step.

    Args:
        samples: Lines of `samples.jsonl`, each with `NEEDED`.
    """
    found: dict[int, list[list[Mapping[str, Any]]]] = {}
    first: dict[int, object] = {}
    for sample in samples:
        if first.setdefault(int(sample["step"]), sample.get("prompt")) != sample.get("prompt"):
            continue
        own = [turn for turn in sample.get("turns", ()) if turn["trained"]]
        found.setdefault(int(sample["step"]), []).append(own)
    return found


def tool_slices(
    responses: Sequence[Sequence[Mapping[str, Any]]], start: float, seconds: float
) -> list[Waited]:
    """Lay the tool seconds of a group's responses beside the engines' slice.

    Args:
        responses: The policy's turns of each response; none of a response of one turn.
        start: Of the slice, seconds since the epoch.
        seconds: Of the slice; a response whose tools took longer goes beyond it.
    """
    found = []
    for number, turns in enumerate(responses):
        left = max(seconds - sum(float(turn["seconds"]) for turn in turns), 0.0)
        tokens = max(sum(int(turn["num_tokens"]) for turn in turns), 1)
        at = start
        for position, turn in enumerate(turns):
            at += left * int(turn["num_tokens"]) / tokens
            took = float(turn["seconds"])
            if took > 0:
                calls = int(turn["calls"]), int(turn["failed_calls"])
                found.append(Waited(LANE.format(number), at, took, position, *calls))
            at += took
    return found
