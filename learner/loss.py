"""What a packed row's loss is made of, and what of it to report.

    token loss = factor * objective + kl_coefficient * KL(learner, reference)
                                    - entropy_coefficient * entropy
    row loss   = sum_t loss_weight_t * token loss_t

    token loss = -advantage * log-probability           of exploring responses

The factor is the correction's. Only the objective's part is about having been sampled by another
policy, so only it is multiplied. KL and entropy are there for responses of advantage 0 as well.
The design weight, within `loss_weight`, multiplies all of it: whatever was thinned away with a
known probability comes back in the mean, in each term.

Responses of exploring tickets were sampled at another temperature, on purpose: their term is
REINFORCE of what was sampled (`cost.draws.entropy_control`). No ratio is about it, so that it is
the same under every objective and correction, and the means to report leave its tokens out.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.batch import MicroBatch
from learner.corrections import Correction, NoCorrection
from learner.mismatch import ratio_values, staleness_values, turn_values
from learner.objectives.ratios import token_ratios, turn_numbers
from learner.objectives.types import LossInputs, Objective, ObjectiveOutput
from learner.reference import kl_estimates

if TYPE_CHECKING:
    from learner.config import LearnerConfig


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """Says where a row's tokens come from, beside what the row itself says."""

    old_logprobs: Tensor | None = None
    """[T] under the learner before the pass; None where the rollout policy's take their place."""
    staleness: Tensor | None = None
    """[K] int64 the learner's version minus that of each loss token, in their order in the row."""
    exploring: Tensor | None = None
    """[S] bool by segment id, True for responses of exploring tickets; None for none."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Computes the losses of rows, the same way for all rows of a run."""

    objective: Objective
    correction: Correction = field(default_factory=NoCorrection)
    kl_coefficient: float = 0.0
    """Weight of the divergence from the reference; 0 for no reference in the loss."""
    kl_estimator: str = "k3"
    entropy_coefficient: float = 0.0

    @classmethod
    def of(cls, objective: Objective, config: "LearnerConfig") -> "Loss":
        """Join the objective and the terms in the learner's settings."""
        return cls(
            objective=objective,
            correction=config.correction or NoCorrection(),
            kl_coefficient=config.reference.kl_in_loss,
            kl_estimator=config.reference.kl_estimator,
            entropy_coefficient=config.entropy_coefficient,
        )

    def row_loss(
        self,
        row: MicroBatch,
        origin: RowOrigin,
        learner_logprobs: Tensor,
        entropies: Tensor,
        ref_logprobs: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a row's part of the loss.

        Args:
            row: The row, on the learner's device.
            origin: Where its tokens come from.
            learner_logprobs: [T] with gradient.
            entropies: [T]; with gradient if `entropy_coefficient` is not 0.
            ref_logprobs: [T], or None without a KL term.

        Returns:
            The loss with gradient, and name -> [K] values without gradient to report at the row's
            loss tokens: 0 at exploring ones, where `exploring_share` is 1 (`mismatch.derived`).

        Raises:
            ValueError: If the objective's losses are not of its contract.
        """
        old, mask, device = origin.old_logprobs, row.loss_mask, learner_logprobs.device
        old = None if old is None else old.to(device)
        inputs = LossInputs(
            learner_logprobs=learner_logprobs,
            rollout_logprobs=row.rollout_logprobs if old is None else old,
            advantages=row.advantages,
            segment_ids=row.segment_ids,
            loss_mask=mask,
        )
        output = _checked(self.objective.token_losses(inputs), inputs)
        trainer = learner_logprobs.detach() if old is None else old
        factors = self.correction.factors(
            replace(inputs, learner_logprobs=trainer, rollout_logprobs=row.rollout_logprobs)
        )
        losses = factors * output.token_losses
        uncut = token_ratios(trainer, row.rollout_logprobs) if self.correction.weighs else 1.0
        values = output.metrics | {"entropy": entropies.detach(), "cut_share": factors != uncut}
        if ref_logprobs is not None:
            kl = kl_estimates(self.kl_estimator, learner_logprobs, ref_logprobs)
            losses = losses + self.kl_coefficient * kl
            values["kl_reference"] = kl_estimates("k3", learner_logprobs.detach(), ref_logprobs)
        if self.entropy_coefficient:
            losses = losses - self.entropy_coefficient * entropies
        values |= ratio_values("rollout", learner_logprobs, row.rollout_logprobs)
        if old is not None:
            values |= ratio_values("old", old, row.rollout_logprobs)
        at_loss = {name: value[mask] for name, value in values.items()}
        at_loss |= turn_values(turn_numbers(row.segment_ids, mask)[mask], at_loss)
        if origin.staleness is not None:
            at_loss |= staleness_values(origin.staleness.to(device), at_loss["kl_rollout"])
        if origin.exploring is not None:
            exploring = origin.exploring.to(device)[row.segment_ids]
            losses = torch.where(exploring, -row.advantages * learner_logprobs, losses)
            at_loss = {name: torch.where(exploring[mask], 0, v) for name, v in at_loss.items()}
            at_loss["exploring_share"] = exploring[mask]
        return (row.loss_weights * losses).sum(), at_loss


def _checked(output: object, inputs: LossInputs) -> ObjectiveOutput:
    """Return what an objective gave; DeepSpeed would not say what is wrong with it."""
    if not isinstance(output, ObjectiveOutput):
        raise ValueError(
            "objective: token_losses must return a learner.objectives.types.ObjectiveOutput, got "
            f"{type(output).__name__}"
        )
    shape = inputs.learner_logprobs.shape
    for name, values in {"token_losses": output.token_losses, **output.metrics}.items():
        if not isinstance(values, Tensor) or values.shape != shape:
            raise ValueError(
                f"objective: {name} must be a tensor with a value for each of {shape[0]} tokens, "
                f"got {tuple(getattr(values, 'shape', ())) or type(values).__name__}"
            )
    if inputs.learner_logprobs.requires_grad and not output.token_losses.requires_grad:
        raise ValueError(
            "objective: token_losses must have a gradient with respect to learner_logprobs; what "
            "it is made from is detached or under no_grad, got none"
        )
    return output
