"""Clips of the value that leave a gradient: GPPO and the clip of agentic AEPO."""

from dataclasses import dataclass, replace

import torch

from cost.ranges import amount, require_ranges
from learner.objectives.clipping import check_clip, clipped_output
from learner.objectives.ratios import own_gradient, token_ratios
from learner.objectives.types import LossInputs, ObjectiveOutput


@dataclass(frozen=True, slots=True)
class GradientPreservingClip:
    """The clipped surrogate whose clipped tokens keep a gradient of bounded size.

        loss = -min(r A, clip(r, (1 - clip_low) r / sg(r), (1 + clip_high) r / sg(r)) A)

    sg() has no gradient, so values are those of `ClippedSurrogate`, and the gradient factor is

        F = 1 + clip_high   if r > 1 + clip_high and A > 0
            1 - clip_low    if r < 1 - clip_low and A < 0     (0 without `preserve_low`)
            r               otherwise

    With `preserve_low` this is GPPO (Klear-Reasoner, arXiv:2508.07629), without it the loss of
    agentic AEPO (arXiv:2510.14545).

    GPPO adds `lm_weight` * -log pi of the tokens of correct responses. An objective does not know
    what is correct; the term is put on responses of positive advantage, which is an approximation
    (ours). With rewards of 0 and 1 and advantages that compare the responses of a group these are
    the correct ones of groups with both kinds; those of groups that are all correct are left out.

    Raises:
        ValueError: If a setting is outside its range.
    """

    clip_low: float = 0.2
    """Distance of the lower bound from 1, in (0, 1]."""
    clip_high: float = 0.28
    """Distance of the upper bound from 1, positive."""
    preserve_low: bool = True
    """Whether tokens clipped at the lower bound keep a gradient too."""
    lm_weight: float = 0.0
    """Weight of the language-model term, not negative; published for GPPO: 0.1."""

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        check_clip(self.clip_low, self.clip_high)
        require_ranges("objective.", self, {"lm_weight": amount()})

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        unit = own_gradient(inputs.learner_logprobs)
        output = clipped_output(
            token_ratios(inputs.learner_logprobs, inputs.rollout_logprobs),
            inputs,
            (1 - self.clip_low) * (unit if self.preserve_low else unit.detach()),
            (1 + self.clip_high) * unit,
        )
        if self.lm_weight == 0:
            return output
        imitated = inputs.loss_mask & (inputs.advantages > 0)
        lm_losses = torch.where(imitated, -self.lm_weight * inputs.learner_logprobs, 0.0)
        return replace(output, token_losses=output.token_losses + lm_losses)
