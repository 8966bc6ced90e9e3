"""Plug `aggregation`: factor a of each response in the estimator.

    loss = (1/P) sum_k weight_k (1/n_k) sum_j (z_kj / q_kj) a_kj sum_t token_loss_kjt

Contract: `factors(lengths, usable, earlier_tokens)` gets one array a group, all groups of a batch,
and returns one array of factors (tokens^-1) a group. `length_exponent` says how a factor varies
with the response's own length. No factor may depend on this batch's draws: one that does is not
`objective_preserving` under non-uniform draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray


class Aggregation(Protocol):
    """Says how the tokens of responses of different length are added up."""

    objective_preserving: ClassVar[bool]
    length_exponent: ClassVar[float]

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return the factors of every group of a batch.

        Args:
            lengths: P arrays [n_k] of response lengths.
            usable: P arrays [n_k], True where the response counts in the loss.
            earlier_tokens: Mean response length over the batches before this one, weighted to
                uniform draws; the response limit before the first. Known before this batch was
                looked at, so it may serve as a divisor.

        Returns:
            P arrays [n_k] float64, positive, tokens^-1.
        """


@dataclass(frozen=True, slots=True)
class SequenceMean:
    """a = 1 / length: each response counts the same, GRPO's original form."""

    objective_preserving: ClassVar[bool] = True
    length_exponent: ClassVar[float] = -1.0

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
    length_exponent: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
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
class BatchTokenMean:
    """a_k = P n_k / T: with weights of 1 the mean over the batch's usable tokens (DAPO).

    T depends on which prompts were drawn, so under cost-aware draws the expected gradient is not
    the uniform one (1.16x, simulated). It preserves the objective only with uniform draws.
    """

    objective_preserving: ClassVar[bool] = False
    length_exponent: ClassVar[float] = 0.0

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return P n_k / T, T the tokens of all usable responses, thinned or not."""
        num_tokens = sum(int(group[ok].sum()) for group, ok in zip(lengths, usable, strict=True))
        scale = len(lengths) / max(num_tokens, 1)
        return [np.full(len(group), scale * len(group)) for group in lengths]
