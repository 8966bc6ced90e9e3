"""Plug `correction`: what to make of tokens that trainer and engine see differently.

The engine that sampled a token and the learner that trains on it give it different
log-probabilities: other kernels, other rounding, other versions. A correction turns the ratio

    w = trainer / rollout probability of a token

into factors [T] of the token losses:

    loss = sum_t loss_weight_t * (factor_t * token_loss_t + other terms)

The factors carry no gradient, and no divisor changes: a masked token counts in every mean as a loss
of 0. Design weights are another thing: they undo known probabilities exactly, are never cut, and
take no part in w. Terms of their own sampling, as KL and entropy, are not corrected.

The trainer's log-probabilities are (`learner.behaviour`)

    recomputed    those of the learner before the first optimiser step of a batch ("old"). The
                  objective's ratio is learner / old, and the correction old / rollout: the
                  decoupled form with three policies.
    rollout       those of the learner as it is. The objective's ratio is learner / rollout, which
                  is w already: a factor that is w or a cut of it would count it twice. Such members
                  `weigh` and are refused here; masks, which say only 0 or 1, are not.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from learner.objectives.ratios import segment_log_ratios, token_ratios
from learner.objectives.types import LossInputs


class Correction(Protocol):
    """Turns log-probabilities of trainer and engine into factors of token losses."""

    @property
    def weighs(self) -> bool:
        """Whether the factors contain the ratio w, rather than being 0 and 1 only."""
        ...

    def factors(self, inputs: LossInputs) -> Tensor:
        """Compute the factor of every token of a packed row.

        Args:
            inputs: The row, with the trainer's log-probabilities as the learner's, see above, and
                as the rollout's those of the distribution that was sampled.

        Returns:
            [T] float32 without gradient, finite and not negative; of no meaning outside the mask.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoCorrection:
    """Leave every token as it is."""

    @property
    def weighs(self) -> bool:
        """It weighs nothing."""
        return False

    def factors(self, inputs: LossInputs) -> Tensor:
        """Return [T] ones."""
        return torch.ones_like(inputs.rollout_logprobs)


@dataclass(frozen=True, slots=True)
class Truncated:
    """Truncated importance sampling (TIS), token by token: min(w, cap).

    Unbiased for one token as the cap goes to infinity; over a response of T tokens it leaves a bias
    of the order T^2 times the mismatch (read second-hand).

    Raises:
        ValueError: If the cap is below 1.
    """

    cap: float = 2.0
    """Largest factor, at least 1; 1e9 cuts nothing, since w is at most e^20."""

    def __post_init__(self) -> None:
        """Refuse a cap that would scale everything."""
        if not self.cap >= 1:
            raise ValueError(f"learner.correction.cap must be at least 1, got {self.cap!r}")

    @property
    def weighs(self) -> bool:
        """It weighs: the factor is w, cut."""
        return True

    def factors(self, inputs: LossInputs) -> Tensor:
        """Return [T] min(w, cap)."""
        return _ratios(inputs).clamp(max=self.cap)


@dataclass(frozen=True, slots=True)
class Band:
    """Leave out tokens whose ratio w is outside a band (IcePop, masked importance sampling).

    Raises:
        ValueError: If the band does not contain 1.
    """

    low: float = 0.5
    """Least ratio to train on, in [0, 1]."""
    high: float = 2.0
    """Largest ratio to train on, at least 1."""
    weigh: bool = True
    """Whether a token inside the band has the factor w, rather than 1."""

    def __post_init__(self) -> None:
        """Refuse a band that leaves out agreement."""
        _check_band(self.low, self.high)

    @property
    def weighs(self) -> bool:
        """It weighs if so configured."""
        return self.weigh

    def factors(self, inputs: LossInputs) -> Tensor:
        """Return [T] w or 1 inside the band, 0 outside."""
        ratios = _ratios(inputs)
        inside = (ratios >= self.low) & (ratios <= self.high)
        return torch.where(inside, ratios if self.weigh else 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class SequenceMask:
    """Leave out responses whose geometric mean ratio, exp(mean of log w), is outside a band.

    Raises:
        ValueError: If the band does not contain 1.
    """

    low: float = 0.99
    """Least mean ratio to train on, in [0, 1]."""
    high: float = 1.01
    """Largest mean ratio to train on, at least 1."""

    def __post_init__(self) -> None:
        """Refuse a band that leaves out agreement."""
        _check_band(self.low, self.high)

    @property
    def weighs(self) -> bool:
        """It is a mask only."""
        return False

    def factors(self, inputs: LossInputs) -> Tensor:
        """Return [T] 1 for tokens of responses inside the band, 0 for others."""
        means = segment_log_ratios(inputs).exp()
        return ((means >= self.low) & (means <= self.high)).to(inputs.rollout_logprobs.dtype)


@dataclass(frozen=True, slots=True)
class OffPolicyMask:
    """Leave out responses of negative advantage that the trainer finds much less likely.

        0 where A < 0 and mean over the response's tokens of log(rollout / trainer) > delta

    After DeepSeek-V3.2's off-policy mask (read second-hand). It compares the policy that sampled
    with the learner as it is, which is `learner.behaviour: rollout`; with `recomputed` the trainer
    is the learner at the start of the pass.

    Raises:
        ValueError: If delta is negative.
    """

    delta: float = 0.1
    """Nats per token that may be lost, not negative. The default is ours."""

    def __post_init__(self) -> None:
        """Refuse a bound that would leave out agreement."""
        if not self.delta >= 0:
            raise ValueError(f"learner.correction.delta must not be negative, got {self.delta!r}")

    @property
    def weighs(self) -> bool:
        """It is a mask only."""
        return False

    def factors(self, inputs: LossInputs) -> Tensor:
        """Return [T] 0 for tokens of responses to leave out, 1 for others."""
        means = segment_log_ratios(inputs)
        left_out = (inputs.advantages < 0) & (-means > self.delta)
        return (~left_out).to(inputs.rollout_logprobs.dtype)


def _ratios(inputs: LossInputs) -> Tensor:
    return token_ratios(inputs.learner_logprobs.detach(), inputs.rollout_logprobs)


def _check_band(low: float, high: float) -> None:
    if not 0 <= low <= 1:
        raise ValueError(f"learner.correction.low must lie in [0, 1], got {low!r}")
    if not high >= 1:
        raise ValueError(f"learner.correction.high must be at least 1, got {high!r}")
