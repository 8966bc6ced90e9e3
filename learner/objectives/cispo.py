"""CISPO: REINFORCE with importance weights that are clipped, not tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objectives.ratios import token_ratios
from learner.objectives.types import ObjectiveOutput


@dataclass(frozen=True, slots=True)
class Cispo:
    """Every token keeps a gradient; its weight is the ratio, clipped whatever the sign of A.

        loss = -sg(clip(r, min_ratio, max_ratio)) A log pi,    F = clip(r, min_ratio, max_ratio)

    The loss contains log pi, so its value says little; its gradient is what counts.

    Sources: MiniMax-M1, arXiv:2506.13585, which in practice uses the upper bound only; ScaleRL,
    arXiv:2510.13786, finds upper limits of 4, 5 and 8 all alike.

    Raises:
        ValueError: If a bound is outside its range.
    """

    max_ratio: float = 5.0
    """Largest weight, at least 1."""
    min_ratio: float = 0.0
    """Least weight, in [0, 1]; 0 for no such bound."""

    def __post_init__(self) -> None:
        """Refuse bounds outside their range."""
        if not self.max_ratio >= 1:
            raise ValueError(f"objective.max_ratio must be at least 1, got {self.max_ratio!r}")
        if not 0 <= self.min_ratio <= 1:
            raise ValueError(f"objective.min_ratio must lie in [0, 1], got {self.min_ratio!r}")

    def token_losses(
        self,
        learner_logprobs: Tensor,
        rollout_logprobs: Tensor,
        advantages: Tensor,
        segment_ids: Tensor,
        loss_mask: Tensor,
    ) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        ratios = token_ratios(learner_logprobs.detach(), rollout_logprobs)
        weights = ratios.clamp(self.min_ratio, self.max_ratio)
        losses = torch.where(loss_mask, -weights * advantages * learner_logprobs, 0.0)
        clipped = (weights != ratios) & (advantages != 0)
        return ObjectiveOutput(
            token_losses=losses,
            metrics={"ratio": ratios, "clip_fraction": clipped.to(ratios.dtype)},
        )
