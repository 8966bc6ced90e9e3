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

A temperature divides logits and their changes alike: pi is then what was sampled from, u is
Delta h / temperature, and g, H and F~ are derivatives of its log-probabilities (ours).

    head_gradient over a step's tokens -> adam_change -> token_changes -> thresholds -> keep

The functions here are pure. No objective calls them, since a mask needs hidden states and the
optimiser's moments, which a token loss does not see: `learner.token_masks` does, before a step,
where `learner.curvature` asks for it.

Source: arXiv:2510.00819. The paper's thresholds are not known to us; it leaves out about 8% of the
tokens at the peak and less than 2% later, so thresholds are set from quantiles (ours).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.curvature_config import RejectedShares

_CHUNK_TOKENS = 256
"""Tokens whose logits and changes of logits [V] exist at a time."""


@dataclass(frozen=True, slots=True)
class LogitChanges:
    """Says what a step does to the logits at each token, as far as the curvature needs it."""

    shifts: Tensor
    """[K] d^T u: change of the chosen token's logit minus the mean change, which is the change of
    its log-probability to first order."""
    variances: Tensor
    """[K] sum pi u^2 - (sum pi u)^2: variance of the changes under the policy, not negative."""


@dataclass(frozen=True, slots=True)
class CurvatureMask:
    """Says which tokens to train on.

    Raises:
        ValueError: If no token could be kept.
    """

    lowest: float = -math.inf
    """The least m_H that is kept."""
    highest: float = math.inf
    """The largest m_H that is kept."""
    largest_shift: float = math.inf
    """The largest m_F that is kept, not negative."""

    def __post_init__(self) -> None:
        """Refuse thresholds that leave nothing."""
        if not self.lowest <= self.highest:
            raise ValueError(
                f"lowest must not exceed highest = {self.highest}, got {self.lowest!r}"
            )
        if not self.largest_shift >= 0:
            raise ValueError(f"largest_shift must not be negative, got {self.largest_shift!r}")

    def keep(self, advantages: Tensor, changes: LogitChanges) -> Tensor:
        """Return [K] bool; False also where a moment is not a number.

        Args:
            advantages: [K] A.
            changes: What the step would do.
        """
        moment, shift_moment = curvature_moments(advantages, changes)
        within = (moment >= self.lowest) & (moment <= self.highest)
        return within & (shift_moment <= self.largest_shift)


def thresholds(moment: Tensor, shift_moment: Tensor, shares: RejectedShares) -> CurvatureMask:
    """Set the thresholds so that each leaves out at most its share of the tokens.

    Args:
        moment: [K] m_H of a whole optimiser step's tokens, of all ranks.
        shift_moment: [K] m_F of the same.
        shares: Shares of K, rounded down. A token that is exactly at a threshold is kept, one
            whose moments are not finite does not count.
    """
    numbers = moment.isfinite() & shift_moment.isfinite()
    by_moment, by_shift = moment[numbers].sort().values, shift_moment[numbers].sort().values
    count = len(by_moment)
    if count == 0:
        return CurvatureMask()
    return CurvatureMask(
        lowest=by_moment[math.floor(shares.low * count)].item(),
        highest=by_moment[count - 1 - math.floor(shares.high * count)].item(),
        largest_shift=by_shift[count - 1 - math.floor(shares.shift * count)].item(),
    )


@torch.no_grad()
def head_gradient(
    hidden: Tensor, head: Tensor, token_ids: Tensor, factors: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return the sum over tokens of factor * d (x) h / temperature: [V, D] float32.

    With factors A_t times the loss weights this is minus the gradient of the loss in the head at
    ratio 1. It adds up over rows and ranks.

    Args:
        hidden: [K, D] hidden states that predict the tokens; they may be on another device.
        head: [V, D] the head's weights.
        token_ids: [K] int64, the chosen tokens.
        factors: [K] float32.
        temperature: Divides the logits, positive.
    """
    weights = head.float()
    total = torch.zeros_like(weights)
    for part in _chunks(len(hidden)):
        states = hidden[part].to(head.device, torch.float32)
        difference = -(states @ weights.T / temperature).softmax(dim=1)
        difference[torch.arange(len(states), device=head.device), token_ids[part]] += 1
        total += (difference * (factors[part, None] / temperature)).T @ states
    return total


def adam_change(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> Tensor:
    """Return how Adam would change a weight, without weight decay: Delta, same shape.

    Args:
        gradient: That of the loss, which Adam lowers.
        mean: Adam's running mean of gradients before this step.
        square: Its running mean of squares before this step, not negative.
        step: Number of this step, counted from 1.
        lr: Learning rate.
        betas: Decay rates of mean and square.
        eps: Added to the root of the square.
    """
    mean = betas[0] * mean + (1 - betas[0]) * gradient
    square = betas[1] * square + (1 - betas[1]) * gradient.square()
    corrected = (square / (1 - betas[1] ** step)).sqrt() + eps
    return -lr / (1 - betas[0] ** step) * mean / corrected


@torch.no_grad()
def token_changes(
    hidden: Tensor, head: Tensor, head_change: Tensor, token_ids: Tensor, temperature: float = 1.0
) -> LogitChanges:
    """Return what a change of the head does at each token, a few tokens' logits at a time.

    Args:
        hidden: [K, D] hidden states that predict the tokens; they may be on another device.
        head: [V, D] the head's weights.
        head_change: [V, D] Delta.
        token_ids: [K] int64, the chosen tokens.
        temperature: Divides the logits, positive.
    """
    weights, weight_changes = head.float(), head_change.float()
    parts = []
    for part in _chunks(len(hidden)):
        states = hidden[part].to(head.device, torch.float32)
        logprobs = (states @ weights.T / temperature).log_softmax(dim=1)
        changes = states @ weight_changes.T / temperature
        parts.append(logit_changes(logprobs, changes, token_ids[part]))
    none = weights.new_zeros(0)
    return LogitChanges(
        shifts=torch.cat([none, *(part.shifts for part in parts)]),
        variances=torch.cat([none, *(part.variances for part in parts)]),
    )


def _chunks(num_tokens: int) -> list[slice]:
    return [slice(k, k + _CHUNK_TOKENS) for k in range(0, num_tokens, _CHUNK_TOKENS)]


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
