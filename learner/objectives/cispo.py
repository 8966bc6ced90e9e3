"""CISPO: REINFORCE with importance weights that are clipped, not tokens."""

from dataclasses import dataclass

import torch

from learner.objectives.ratios import token_ratios
from learner.objectives.types import LossInputs, ObjectiveOutput


@dataclass(frozen=True, slots=True)
class Cispo:
    """Every token keeps a gradient; its weight is the ratio, clipped whatever the sign of A.

        loss = -sg(clip(r, min_ratio, max_ratio)) A log pi,    F = clip(r, min_ratio, max_ratio)

    The loss contains log pi, so its value says little; its gradient is what counts. With both
    bounds at 1 it is REINFORCE, which looks at no ratio: there is no clip to report.

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

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        ratios = token_ratios(inputs.learner_logprobs.detach(), inputs.rollout_logprobs)
        weights = ratios.clamp(self.min_ratio, self.max_ratio)
        losses = -weights * inputs.advantages * inputs.learner_logprobs
        metrics = {"ratio": ratios}
        if self.min_ratio < self.max_ratio:
            clipped = (weights != ratios) & (inputs.advantages != 0)
            metrics["clip_fraction"] = clipped.to(ratios.dtype)
        return ObjectiveOutput(torch.where(inputs.loss_mask, losses, 0.0), metrics)
