"""Plug `objective`: what one token contributes to the loss.

An objective sees no design weight: `Selection.weight` multiplies its output, so it stays outside
ratio and clip, and a clip never changes the weight of a draw. It sees no divisor either; summing
and dividing is the estimator's part (`learner.batch`):

    loss = sum_t loss_weight_t * token_loss_t,    loss_weight = weight * a / (P * n)

Contract: `token_losses(inputs: LossInputs) -> ObjectiveOutput`. The loss of a token has a gradient
with respect to that token's own log-probability only, so that a token's loss weight decides on that
token's gradient and on no other's (D3S leaves out tokens). What else a member reads of the row, as
the mean ratio of a whole response, it takes without gradient. A response's losses depend on that
response alone, never on what else is packed into its row.

A member whose formula holds only where every response counts the same may say so by a class
variable `needs_sequence_mean = True`; other aggregations are then refused.

With r = learner / rollout probability, a member is known by its gradient factor

    F(r, A) = -(d token_loss / d learner_logprob) / A

which is 1 at r = 1, the plain policy gradient, and never negative. Recipes of the field that differ
in advantage, aggregation, draws or bounds only are YAML (`conf/recipe/`), not members.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Holds one packed row as objectives and corrections see it, on one device.

    Example:
        A response of two tokens behind a prompt of one, then one of one token behind the same:

        LossInputs(
            learner_logprobs=tensor([0.0, -1.2, -0.3, 0.0, -2.1], requires_grad=True),
            rollout_logprobs=tensor([0.0, -1.1, -0.3, 0.0, -2.5]),
            advantages=tensor([0.7, 0.7, 0.7, -0.7, -0.7]),
            segment_ids=tensor([0, 0, 0, 1, 1]),
            loss_mask=tensor([False, True, True, False, True]),
        )
    """

    learner_logprobs: Tensor
    """[T] float32, finite; 0 outside the loss mask. For an objective those of the learner as it is,
    with gradient; for a correction those of the trainer (`learner.corrections`)."""
    rollout_logprobs: Tensor
    """[T] float32, of the policy version that sampled, or for an objective of what a correction
    puts in its place (`learner.loss`); 0 outside the mask."""
    advantages: Tensor
    """[T] float32, one value per segment repeated over its tokens."""
    segment_ids: Tensor
    """[T] int64, which response a token belongs to: 0, 1, ... one after the other, or -1 in
    padding."""
    loss_mask: Tensor
    """[T] bool, True on tokens that the policy wrote, never at the row's first."""


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """Holds the losses of one row, and what to report about them."""

    token_losses: Tensor
    """[T] float32, 0 outside the loss mask."""
    metrics: dict[str, Tensor]
    """Name -> [T] float32 without gradient; reported as means over the loss tokens of the step.
    `ratio` is the ratio that the member works with, `clip_fraction` is 1 where its clip is active;
    a member without a clip does not report that."""


class Objective(Protocol):
    """Turns log-probabilities into token losses."""

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token of a packed row."""
        ...
