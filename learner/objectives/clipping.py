"""The clipped surrogate of PPO, for any ratio and any bounds, and the checks of its settings."""

import math

import torch
from torch import Tensor

from learner.objectives.types import LossInputs, ObjectiveOutput


def clipped_output(
    ratios: Tensor,
    inputs: LossInputs,
    lowest: Tensor | float,
    highest: Tensor | float,
    dual_clip: float | None = None,
) -> ObjectiveOutput:
    """Return -min(r A, clip(r, lowest, highest) A), and which tokens were clipped.

    Args:
        ratios: [T] r, positive, with gradient.
        inputs: The row, of which A and the loss mask are read.
        lowest: Bound where A < 0, a number or [T]; its gradient, if any, is the clipped tokens'.
        highest: Bound where A > 0, likewise.
        dual_clip: Largest ratio that counts where A < 0; None for no such bound.
    """
    advantages = inputs.advantages
    negative = advantages < 0
    clipped_high = (advantages > 0) & (ratios > highest)
    clipped_low = negative & (ratios < lowest)
    bounded = torch.where(clipped_high, highest, ratios)
    bounded = torch.where(clipped_low, lowest, bounded)
    clipped = clipped_high | clipped_low
    if dual_clip is not None:
        clipped_dual = negative & (ratios > dual_clip)
        bounded = torch.where(clipped_dual, dual_clip, bounded)
        clipped = clipped | clipped_dual
    return ObjectiveOutput(
        token_losses=torch.where(inputs.loss_mask, -bounded * advantages, 0.0),
        metrics={"ratio": ratios.detach(), "clip_fraction": clipped.to(ratios.dtype)},
    )


def check_clip(clip_low: float, clip_high: float) -> None:
    """Refuse distances from 1 that are no bounds.

    Raises:
        ValueError: If `clip_low` is not in (0, 1] or `clip_high` is not finite and positive.
    """
    if not 0 < clip_low <= 1:
        raise ValueError(f"objective.clip_low must be in (0, 1], got {clip_low!r}")
    # An infinite bound would give 0 * inf in the backward pass of a clip that has a gradient.
    if not 0 < clip_high < math.inf:
        raise ValueError(f"objective.clip_high must be finite and positive, got {clip_high!r}")
