"""The learning rate over the optimiser steps: warm-up, then a schedule of transformers.

    warm-up      lr (k + 1) / warmup_steps
    afterwards   lr (m + (1 - m) f(k)), f falling from 1 to 0 by `learner.schedule`

It depends on the number of applied steps alone, so that a run that goes on needs no more of it than
its checkpoint has.
"""

from collections.abc import Callable
from functools import cache

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(
    step: int, *, lr: float, schedule: str, warmup: int, num_steps: int | None, minimum: float
) -> float:
    """Return the learning rate of an optimiser step.

    Args:
        step: Applied steps before it, from 0.
        lr: Where warm-up ends, positive.
        schedule: One of `SCHEDULES`.
        warmup: Steps of the warm-up.
        num_steps: Steps until the minimum is reached, warm-up included; None for "constant" only.
            Later steps stay there.
        minimum: Share of `lr` at the end, in [0, 1].
    """
    if step < warmup or schedule == "constant":
        return lr * min(1.0, (step + 1) / max(warmup, 1))
    assert num_steps is not None
    factor = _factors(schedule, warmup, num_steps)(min(step, num_steps) + 1)
    return lr * (minimum + (1.0 - minimum) * factor)


@cache
def _factors(schedule: str, warmup: int, num_steps: int) -> Callable[[int], float]:
    """What transformers multiplies the learning rate by, as a function of the step from 1."""
    import torch
    from transformers import get_scheduler

    # It wants an optimiser to set the rate of; only its function of the step is asked.
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = get_scheduler(
        schedule, unused, num_warmup_steps=warmup, num_training_steps=num_steps + 1
    )
    factor: Callable[[int], float] = made.lr_lambdas[0]
    return factor
