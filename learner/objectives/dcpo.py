"""DCPO: bounds of the ratio that are wider the less likely the token was."""

from dataclasses import dataclass

from torch import Tensor

from learner.objectives.clipping import clipped_output
from learner.objectives.ratios import token_ratios
from learner.objectives.types import LossInputs, ObjectiveOutput


@dataclass(frozen=True, slots=True)
class Dcpo:
    """The clipped surrogate with bounds from the sampling probability q of each token.

        |(r - 1) r q| <= eps  gives  1/2 + 1/2 sqrt(max(1 - 4 eps_low / q, 0)) <= r
                                  <= min(1/2 + 1/2 sqrt(1 + 4 eps_high / q), max_ratio)

    Where A is negative r counts up to `max_ratio` only, a dual clip, as in the authors' code (whose
    two caps are separate settings). The smooth standardisation of DCPO is an advantage and its
    token mean an aggregation: both are other plugs.

    Source: Yang et al. 2025, arXiv:2509.02333.

    Raises:
        ValueError: If a bound is outside its range.
    """

    eps_low: float = 0.16
    """How far the probability may sink, positive."""
    eps_high: float = 0.2
    """How far the probability may rise, positive."""
    max_ratio: float = 10.0
    """Largest ratio whatever q is, above 1."""

    def __post_init__(self) -> None:
        """Refuse bounds outside their range."""
        for key in ("eps_low", "eps_high"):
            if not getattr(self, key) > 0:
                raise ValueError(f"objective.{key} must be positive, got {getattr(self, key)!r}")
        if not self.max_ratio > 1:
            raise ValueError(f"objective.max_ratio must be above 1, got {self.max_ratio!r}")

    def token_losses(self, inputs: LossInputs) -> ObjectiveOutput:
        """Compute the loss of every token; see `Objective`. The segments play no part here."""
        lowest, highest = self.bounds(inputs.rollout_logprobs.exp())
        return clipped_output(
            token_ratios(inputs.learner_logprobs, inputs.rollout_logprobs),
            inputs,
            lowest,
            highest,
            self.max_ratio,
        )

    def bounds(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest [T], in [1/2, 1), and the highest [T] ratio, in (1, max_ratio].

        Args:
            probabilities: [T] q, in [0, 1].
        """
        # q = 0 gives infinities that end at 1/2 and max_ratio, never a NaN.
        lowest = 0.5 + 0.5 * (1 - 4 * self.eps_low / probabilities).clamp(min=0).sqrt()
        highest = 0.5 + 0.5 * (1 + 4 * self.eps_high / probabilities).sqrt()
        return lowest, highest.clamp(max=self.max_ratio)
