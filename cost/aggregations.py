"""Plug `aggregation`: factor a of each response in the estimator.

    loss = (1/P) sum_k weight_k (1/n_k) sum_j (z_kj / q_kj) a_kj sum_t token_loss_kjt

Contract: `factors(lengths, usable, earlier_tokens)` gets one array a group, all groups of a batch,
and returns one array of factors (tokens^-1) a group, from the full groups, thinned or not. A factor
may depend on its own group. One that depends on the batch's other groups, and so on its draws, is
not `objective_preserving` under non-uniform draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray


@runtime_checkable
class Aggregation(Protocol):
    """Says how the tokens of responses of different length are added up."""

    objective_preserving: ClassVar[bool]
    """Whether a group's factors do not depend on the other groups of its batch."""
    size_free: ClassVar[bool]
    """Whether a group's expected share of the loss is the same whatever its size."""

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return the factors of every group of a batch.

        Args:
            lengths: P arrays [n_k] of response lengths.
            usable: P arrays [n_k], True where the response counts in the loss.
            earlier_tokens: Mean response length over the batches before this one, weighted to
                uniform draws; the response limit before the first. It is known before this batch
                was looked at, so it may serve as a divisor.

        Returns:
            P arrays [n_k] float64, positive, tokens^-1.
        """


@dataclass(frozen=True, slots=True)
class SequenceMean:
    """a = 1 / length: each response counts the same, GRPO's original form."""

    objective_preserving: ClassVar[bool] = True
    size_free: ClassVar[bool] = True

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return 1 / length; 1 for an empty response."""
        return [1.0 / np.maximum(group, 1) for group in lengths]


@dataclass(frozen=True, slots=True)
class ConstantLength:
    """a = 1 / reference: each token counts the same, with a constant for divisor (Dr. GRPO).

    Without `reference_tokens` the divisor is the mean response length of earlier batches, which
    keeps the gradient's scale near that of a token mean; the first batch divides by the response
    limit, so its step is smaller. Both are unbiased up to a scale fixed before the batch.
    """

    reference_tokens: float | None = None
    """Divisor in tokens, positive; None for the mean of earlier batches."""

    objective_preserving: ClassVar[bool] = True
    size_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.reference_tokens is not None and not self.reference_tokens > 0:
            raise ValueError(
                f"aggregation.reference_tokens must be positive, got {self.reference_tokens!r}"
            )

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return the constant for every response."""
        reference = earlier_tokens if self.reference_tokens is None else self.reference_tokens
        return [np.full(len(group), 1.0 / reference) for group in lengths]


@dataclass(frozen=True, slots=True)
class PromptMean:
    """a_k = n_k / T_k: the mean over the usable tokens of a prompt's group, then over prompts.

    ScaleRL's prompt-level average (2510.13786). T_k are the tokens of the full group, thinned or
    not, and of no other group, so weights still undo the draws: the objective, the mean over
    prompts of the expected token mean of a group, is preserved. T_k is random and goes with the
    rewards, so that expectation differs between groups of different size.
    """

    objective_preserving: ClassVar[bool] = True
    size_free: ClassVar[bool] = False

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return n_k / T_k for every response of group k; n_k where T_k is 0."""
        return [
            np.full(len(group), len(group) / max(int(group[ok].sum()), 1))
            for group, ok in zip(lengths, usable, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class BatchTokenMean:
    """a_k = P n_k / T: with weights of 1 the mean over the batch's usable tokens (DAPO).

    T depends on which prompts were drawn, so under cost-aware draws the expected gradient is not
    the uniform one (1.16x, simulated). It preserves the objective only with uniform draws. A larger
    group has more tokens and counts more.
    """

    objective_preserving: ClassVar[bool] = False
    size_free: ClassVar[bool] = False

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return P n_k / T, T the tokens of all usable responses, thinned or not."""
        num_tokens = sum(int(group[ok].sum()) for group, ok in zip(lengths, usable, strict=True))
        scale = len(lengths) / max(num_tokens, 1)
        return [np.full(len(group), scale * len(group)) for group in lengths]


def counts_responses_alike(aggregation: Aggregation) -> bool:
    """Tell whether every response of a batch counts the same, whatever its length.

    It is asked about three responses in two groups, so that any plug can answer.
    """
    lengths = [np.array([1, 3]), np.array([8])]
    factors = aggregation.factors(lengths, [group > 0 for group in lengths], 4.0)
    shares = np.concatenate(factors) * np.concatenate(lengths)
    return bool(np.allclose(shares, shares[0]))
