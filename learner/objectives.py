"""What one token contributes to the loss, given the probabilities that chose and that learn it.

An objective sees no design weight: `Selection.weight` multiplies its output, so it stays outside
ratio and clip, and a clip never changes the weight of a draw. It sees no divisor either; summing
and dividing is the estimator's part (`learner.batch`).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """Losses of one row, and what to report about them."""

    token_losses: Tensor
    """[T] float32, 0 outside the loss mask."""
    metrics: dict[str, Tensor]
    """Name -> [T] float32 without gradient; reported as means over the loss tokens of the step."""


class Objective(Protocol):
    """The plug that turns log-probabilities into token losses."""

    def token_losses(
        self,
        learner_logprobs: Tensor,
        rollout_logprobs: Tensor,
        advantages: Tensor,
        segment_ids: Tensor,
        loss_mask: Tensor,
    ) -> ObjectiveOutput:
        """Compute the loss of every token of a packed row.

        Args:
            learner_logprobs: [T] float32 with gradient; 0 outside the loss mask.
            rollout_logprobs: [T] float32, of the policy version that sampled; 0 outside the mask.
            advantages: [T] float32, one value per segment repeated over its tokens.
            segment_ids: [T] int64, which response a token belongs to.
            loss_mask: [T] bool, True on tokens that the policy wrote.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """The clipped surrogate of PPO with separate bounds below and above ("clip-higher").

        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),    r = exp(learner - rollout)

    and with `dual_clip` = c, for negative A only, -max(min(...), c A).

    Sources: Schulman et al. 2017, arXiv:1707.06347, eq. 7; bounds from DAPO, Yu et al. 2025,
    arXiv:2503.14476; dual clip from Ye et al. 2020, arXiv:1912.09729.

    Raises:
        ValueError: If a bound is outside its range.
    """

    clip_low: float = 0.2
    """Distance of the lower bound from 1, in (0, 1]."""
    clip_high: float = 0.28
    """Distance of the upper bound from 1, positive."""
    dual_clip: float | None = None
    """Largest ratio that counts where the advantage is negative, above 1 + clip_high; None for no
    such bound."""

    def __post_init__(self) -> None:
        """Refuse bounds outside their range."""
        if not 0 < self.clip_low <= 1:
            raise ValueError(f"objective.clip_low must be in (0, 1], got {self.clip_low!r}")
        if not self.clip_high > 0:
            raise ValueError(f"objective.clip_high must be positive, got {self.clip_high!r}")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ValueError(
                f"objective.dual_clip must be above 1 + clip_high = {1 + self.clip_high}, "
                f"got {self.dual_clip!r}"
            )

    def token_losses(
        self,
        learner_logprobs: Tensor,
        rollout_logprobs: Tensor,
        advantages: Tensor,
        segment_ids: Tensor,
        loss_mask: Tensor,
    ) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        # Beyond e^20 a ratio says nothing any more, and its exponential would overflow.
        log_ratio = (learner_logprobs - rollout_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        positive, negative = advantages > 0, advantages < 0
        clipped_high = positive & (ratio > 1 + self.clip_high)
        clipped_low = negative & (ratio < 1 - self.clip_low)
        bounded = torch.where(clipped_high, 1 + self.clip_high, ratio)
        bounded = torch.where(clipped_low, 1 - self.clip_low, bounded)
        clipped = clipped_high | clipped_low
        if self.dual_clip is not None:
            clipped_dual = negative & (ratio > self.dual_clip)
            bounded = torch.where(clipped_dual, self.dual_clip, bounded)
            clipped = clipped | clipped_dual
        losses = torch.where(loss_mask, -bounded * advantages, 0.0)
        return ObjectiveOutput(
            token_losses=losses,
            metrics={
                "ratio": ratio.detach(),
                "clip_fraction": clipped.float(),
            },
        )
