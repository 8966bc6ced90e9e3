"""The clipped surrogates of PPO: ratios of tokens, of turns and of whole responses."""

from dataclasses import dataclass, replace
from typing import ClassVar

from learner.objectives.clipping import check_clip, clipped_output
from learner.objectives.ratios import run_means, segment_ratios, token_ratios, turn_ratios
from learner.objectives.types import LossInputs, ObjectiveOutput


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """The clipped surrogate of PPO with separate bounds below and above ("clip-higher").

        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),    r = exp(learner - rollout)

    and with `dual_clip` = c, for negative A only, -max(min(...), c A).

    GRPO, Dr. GRPO and REINFORCE++ are this with equal bounds, DAPO with .2 and .28, NGRPO with .16
    and .24; they differ in advantage and aggregation. RAFT++ (arXiv:2505.02391, eq. 8) is this with
    A = 1 for accepted responses and 0 for others.

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
        check_clip(self.clip_low, self.clip_high)
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ValueError(
                f"objective.dual_clip must be above 1 + clip_high = {1 + self.clip_high}, "
                f"got {self.dual_clip!r}"
            )

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        return clipped_output(
            token_ratios(inputs.learner_logprobs, inputs.rollout_logprobs),
            inputs,
            1 - self.clip_low,
            1 + self.clip_high,
            self.dual_clip,
        )


@dataclass(frozen=True, slots=True)
class Gspo:
    """GSPO: the clipped surrogate of a response's geometric mean ratio s.

        s = exp((1/|y|) sum_t log r_t)
        loss_t = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)    for every token t of y

    The paper's objective, mean_j min(s_j A_j, clip(s_j, ...) A_j), is minus the sum of the token
    losses times a = 1/|y|: it needs the aggregation `sequence_mean`. Then the objective's gradient
    with respect to each token's log-probability is s A / |y|, or 0 if the response is clipped. With
    another aggregation a response counts in proportion to |y| a. Here a token's loss carries the
    gradient of its own log-probability alone; summed over a response this is the same.

    Source: Zheng et al. 2025, arXiv:2507.18071.

    Raises:
        ValueError: If a bound is outside its range.
    """

    clip_low: float = 3e-4
    """Distance of the lower bound from 1, in (0, 1]."""
    clip_high: float = 4e-4
    """Distance of the upper bound from 1, positive."""

    needs_sequence_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse bounds outside their range."""
        check_clip(self.clip_low, self.clip_high)

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`."""
        return clipped_output(segment_ratios(inputs), inputs, 1 - self.clip_low, 1 + self.clip_high)


@dataclass(frozen=True, slots=True)
class TurnClippedSurrogate:
    """ST-PPO's turn-level ratio: the clipped surrogate of a turn's geometric mean ratio.

        w = exp(mean over the turn's tokens of log r),    loss_t = -min(w A, clip(w, ...) A)

    A turn is a longest run of loss tokens. A response of one turn has GSPO's ratio, turns of one
    token have GRPO's. ST-PPO takes its advantages from a critic; here A is what the `advantage`
    plug gives.

    With `corrects_bias` a response's losses are divided by 1 + |C|, without gradient, where

        C = (1/|y|) sum over its tokens of 1{clipped} w A

    is its part of the clipping bias: highly off-policy responses count less, and what nothing clips
    stays as it is. The paper divides a whole step's gradient by the norm of C, which is 0 where
    nothing is clipped; taken response by response, with the 1, it is ours.

    Source: Li et al. 2025, arXiv:2511.20718 (from abstract and reviews).

    Raises:
        ValueError: If a bound is outside its range.
    """

    clip_low: float = 0.2
    """Distance of the lower bound from 1, in (0, 1]."""
    clip_high: float = 0.2
    """Distance of the upper bound from 1, positive."""
    corrects_bias: bool = False
    """Whether responses count less by their part of the clipping bias."""

    def __post_init__(self) -> None:
        """Refuse bounds outside their range."""
        check_clip(self.clip_low, self.clip_high)

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`."""
        ratios = turn_ratios(inputs)
        output = clipped_output(ratios, inputs, 1 - self.clip_low, 1 + self.clip_high)
        if not self.corrects_bias:
            return output
        clipped = output.metrics["clip_fraction"]
        parts = clipped * ratios.detach() * inputs.advantages
        # Padding has the id -1.
        bias = run_means(parts, inputs.segment_ids + 1, inputs.loss_mask).abs()
        return replace(
            output,
            token_losses=output.token_losses / (1 + bias),
            metrics=output.metrics | {"clipping_bias": bias},
        )
