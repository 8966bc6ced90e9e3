"""The learning rate over the optimiser steps: a linear warm-up times a fall to the run's end.

    rate   lr min(1, (k + 1) / warmup_steps) (m + (1 - m) f(q))
    q      max(0, p - s) / (1 - s)
    f      1 for "constant", 1 - q for "linear", (1 + cos(pi q)) / 2 for "cosine"

k counts the steps that were applied. p is the share of the run that is over, whichever bound ends
it, or the share of `schedule_steps` after the warm-up where those are given. Neither is part of a
run's state: a run that goes on knows both. s is the share for which the rate stays: warm-up,
stable, decay (WSD; Hu et al., arXiv 2404.06395).
"""

import math

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(
    step: int,
    progress: float,
    *,
    lr: float,
    schedule: str,
    warmup: int,
    num_steps: int | None,
    minimum: float,
    stable: float = 0.0,
) -> float:
    """Return the learning rate of an optimiser step.

    Args:
        step: Applied steps before it, from 0.
        progress: Share of the run that is over, in [0, 1].
        lr: Where warm-up ends and the fall begins, positive.
        schedule: One of `SCHEDULES`.
        warmup: Steps of the warm-up.
        num_steps: Steps until the minimum is reached, warm-up included; later steps stay there.
            None to reach it with the run's end.
        minimum: Share of `lr` at the end, in [0, 1].
        stable: Share of what is counted by `progress` or, after the warm-up, by `num_steps` before
            the fall begins, in [0, 1).
    """
    risen = min(1.0, (step + 1) / max(warmup, 1))
    if num_steps is not None:
        progress = min(max(step + 1 - warmup, 0) / (num_steps + 1 - warmup), 1.0)
    fallen = max(progress - stable, 0.0) / (1.0 - stable)
    return lr * risen * (minimum + (1.0 - minimum) * _left(schedule, fallen))


def _left(schedule: str, progress: float) -> float:
    """What is left of a fall from 1 to 0."""
    match schedule:
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case _:
            return 1.0
