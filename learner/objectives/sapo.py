"""SAPO: a soft gate in place of a clip."""

from dataclasses import dataclass

import torch

from cost.ranges import positive, require_ranges
from learner.objectives.ratios import token_ratios
from learner.objectives.types import LossInputs, ObjectiveOutput


@dataclass(frozen=True, slots=True)
class Sapo:
    """Tokens fade as their ratio leaves 1; none is cut off.

        loss = -f(r) A,    f(r) = (4 / tau) sigmoid(tau (r - 1)),    F = r sech^2(tau (r - 1) / 2)

    with tau = `tau_positive` where A > 0 and `tau_negative` elsewhere. The paper averages over the
    tokens of a response, then over responses: aggregation `sequence_mean`.

    Source: arXiv:2511.20347.

    Raises:
        ValueError: If a temperature is not finite and positive.
    """

    tau_positive: float = 1.0
    """Sharpness of the gate where the advantage is positive, positive."""
    tau_negative: float = 1.05
    """Sharpness elsewhere, positive; larger than `tau_positive` fades sooner."""

    def __post_init__(self) -> None:
        """Refuse temperatures outside their range."""
        ranges = {"tau_positive": positive(), "tau_negative": positive()}
        require_ranges("objective.", self, ranges)

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        ratios = token_ratios(inputs.learner_logprobs, inputs.rollout_logprobs)
        tau = torch.full_like(inputs.advantages, self.tau_negative)
        tau[inputs.advantages > 0] = self.tau_positive
        gated = 4 / tau * (tau * (ratios - 1)).sigmoid()
        return ObjectiveOutput(
            token_losses=torch.where(inputs.loss_mask, -gated * inputs.advantages, 0.0),
            metrics={"ratio": ratios.detach()},
        )
