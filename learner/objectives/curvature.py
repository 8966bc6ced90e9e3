"""CAPO: which tokens to leave out because the step would bend the policy too much there.

A model of the last layer only: at a token with hidden state h [D], distribution pi [V] and chosen
token a, let d = e_a - pi, F = diag(pi) - pi pi^T, and let the optimiser be about to change the head
by Delta [V, D]. Per token

    g = A d (x) h,    H = A (d d^T - F) (x) h h^T,    F~ = d d^T (x) h h^T
    m_H = g^T Delta + 1/2 Delta^T H Delta,    m_F = 1/2 Delta^T F~ Delta

and a token is kept iff lowest <= m_H <= highest and m_F <= largest_shift. None of the matrices is
built: with u = Delta h [V], the change of the logits, (ours, from the definitions)

    g^T Delta = A d^T u,    Delta^T F~ Delta = (d^T u)^2
    Delta^T H Delta = A ((d^T u)^2 - (sum pi u^2 - (sum pi u)^2))

Source: arXiv:2510.00819. The paper's thresholds are not known to us; it leaves out about 8% of the
tokens at the peak and less than 2% later.
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitChanges:
    """What a step does to the logits at each token, as far as the curvature needs it."""

    shifts: Tensor
    """[K] d^T u: change of the chosen token's logit minus the mean change, which is the change of
    its log-probability to first order."""
    variances: Tensor
    """[K] sum pi u^2 - (sum pi u)^2: variance of the changes under the policy, not negative."""


@dataclass(frozen=True, slots=True)
class CurvatureMask:
    """Which tokens to train on.

    Raises:
        ValueError: If no token could be kept.
    """

    lowest: float = -math.inf
    """Least m_H."""
    highest: float = math.inf
    """Largest m_H."""
    largest_shift: float = math.inf
    """Largest m_F, not negative."""

    def __post_init__(self) -> None:
        """Refuse thresholds that leave nothing."""
        if not self.lowest <= self.highest:
            raise ValueError(
                f"curvature.lowest must not exceed highest = {self.highest}, got {self.lowest!r}"
            )
        if not self.largest_shift >= 0:
            raise ValueError(
                f"curvature.largest_shift must not be negative, got {self.largest_shift!r}"
            )

    def keep(self, advantages: Tensor, changes: LogitChanges) -> Tensor:
        """Return [K] bool; False also where a moment is not a number.

        Args:
            advantages: [K] A.
            changes: What the step would do.
        """
        moment, shift_moment = curvature_moments(advantages, changes)
        within = (moment >= self.lowest) & (moment <= self.highest)
        return within & (shift_moment <= self.largest_shift)


def logit_changes(logprobs: Tensor, changes: Tensor, token_ids: Tensor) -> LogitChanges:
    """Reduce the change of all logits to the two numbers per token that matter.

    Args:
        logprobs: [K, V] log pi.
        changes: [K, V] u = Delta h, of the step that the optimiser would make.
        token_ids: [K] int64, the chosen tokens.
    """
    probabilities = logprobs.exp()
    means = (probabilities * changes).sum(dim=1)
    chosen = changes.gather(1, token_ids[:, None]).squeeze(1)
    # The plain difference of the two sums would cancel, and could come out negative.
    variances = (probabilities * (changes - means[:, None]).square()).sum(dim=1)
    return LogitChanges(shifts=chosen - means, variances=variances)


def curvature_moments(advantages: Tensor, changes: LogitChanges) -> tuple[Tensor, Tensor]:
    """Return m_H [K] and m_F [K].

    Args:
        advantages: [K] A.
        changes: What the step would do.
    """
    squares = changes.shifts.square()
    moment = advantages * (changes.shifts + 0.5 * (squares - changes.variances))
    return moment, 0.5 * squares
