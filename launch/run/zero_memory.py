"""What ZeRO holds of gradients and optimiser for each trained value: arithmetic only."""

from __future__ import annotations

from learner.config import LearnerConfig
from learner.deepspeed_settings import BUCKET_VALUES
from learner.optimizers import Adafactor, Sgd

GATHERED_VALUES = STEPPED_VALUES = 1_000_000_000
"""Of ZeRO stage 3 by DeepSpeed's own setting: weights that are whole at a time, and weights of a
rank that the optimiser steps on at a time."""


def optimizer_bytes(learner: LearnerConfig) -> float:
    """Bytes of an optimiser's state for each trained value, in float32."""
    chosen = learner.chosen_optimizer
    if isinstance(chosen, Sgd):
        return 4.0 if chosen.momentum else 0.0
    return 0.1 if isinstance(chosen, Adafactor) else 8.0


def gradient_bytes(stage: int, value: int, ranks: int) -> float:
    """Bytes of gradients for each trained value: as computed, and as added up in float32.

    In ZeRO stages 1 to 3 a step joins a rank's part in one flat tensor. Stages 1 and 2 have it so
    already where weights have 16 bits; of stage 3 it is among the buffers.
    """
    if stage == 0:
        return 4.0
    if stage == 1:
        return 4.0 + (2.0 if value == 2 else 4.0 / ranks)
    if stage == 2 and value == 4:
        return 8.0 / ranks
    return 4.0 / ranks + (value if stage == 2 and ranks == 1 else 0.0)


def buffer_bytes(learner: LearnerConfig, value: int, whole: float, flat: float) -> float:
    """Bytes that ZeRO copies into for a moment.

    Args:
        learner: Its settings.
        value: Bytes of a weight, and of a gradient on its way between ranks.
        whole: Bytes of all weights. Stage 3 gathers them for a row up to a bound of DeepSpeed's.
        flat: Bytes of this rank's part of all gradients, joined for a step in stage 3 as far as
            DeepSpeed steps at once.
    """
    if not learner.zero_stage:
        return 0.0
    settings = {
        "reduce_bucket_size": BUCKET_VALUES,
        "stage3_max_live_parameters": GATHERED_VALUES,
        "sub_group_size": STEPPED_VALUES,
    } | dict(learner.deepspeed.get("zero_optimization") or {})
    bucket = float(value * settings["reduce_bucket_size"])
    if learner.zero_stage < 3:
        return min(bucket, whole)
    gathered = min(whole, value * settings["stage3_max_live_parameters"])
    # Rows are over when the optimiser steps.
    return min(bucket, whole) + max(gathered, min(flat, 4.0 * settings["sub_group_size"]))


def offloaded_bytes(learner: LearnerConfig, value: int) -> float:
    """Bytes in the machine's memory for each value of a rank's part, if the optimiser is offloaded.

    Beside its state they are masters and the gradient of a step in float32. Stage 3 adds rows'
    gradients up there too. Stages 1 and 2 have room for weights on their way back, and add up there
    what has no 16 bits.
    """
    more = 4.0 if learner.zero_stage == 3 else value + (4.0 if value == 4 else 0.0)
    return 8.0 + optimizer_bytes(learner) + more
