"""Plug `proxy`: a guess of each response's gradient norm, for thinning.

Contract: `score(advantages, lengths, surprise, factors, ticket_weights) -> [M] float64`, not
negative, finite. A wrong guess costs variance, never bias: off by a factor within [m, M], the cost
is at most (m + M)^2 / (4 m M) of the optimum.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cost.ranges import Range, amount, positive, require_ranges
from cost.types import FloatArray, IntArray

EXPONENTS = {"advantage_exponent": positive(), "length_exponent": Range(-1e9, 1e9)}
LEAST_EXPONENT = 0.1
"""A fitted exponent of |A| is no smaller: a response's worth grows with its advantage."""


@runtime_checkable
class Proxy(Protocol):
    """Guesses the gradient norms of responses."""

    def score(
        self,
        advantages: FloatArray,
        lengths: IntArray,
        surprise: FloatArray,
        factors: FloatArray,
        ticket_weights: FloatArray,
    ) -> FloatArray:
        """Return [M] float64 guesses, up to one common factor.

        Args:
            advantages: [M] advantages from the full groups.
            lengths: [M] response tokens.
            surprise: [M] sum over the response's tokens of (1 - probability)^2.
            factors: [M] aggregation factors.
            ticket_weights: [M] ticket's weight over its group size: what the estimator multiplies a
                response of that ticket with, beside the factor.
        """


@runtime_checkable
class FittedProxy(Proxy, Protocol):
    """A proxy whose exponents can be taken from a calibration."""

    def with_exponents(self, advantage: float, surprise: float, length: float) -> Proxy:
        """Return the proxy with fitted exponents."""


@dataclass(frozen=True, slots=True)
class AdvantageProxy:
    """|A|^b L^d; b = 1, d = 0 is the paper's proxy (Mohri et al. 2026, 2604.28020).

    The exponents are ours: on-policy the norm of a response's summed score grows like sqrt(L), so
    d = 1/2 fits token sums and d = -1/2 sequence means.
    """

    advantage_exponent: float = 1.0
    """b, the exponent of |A|; positive."""
    length_exponent: float = 0.0
    """d, the exponent of the length; any number."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("proxy.", self, EXPONENTS)

    def score(
        self,
        advantages: FloatArray,
        lengths: IntArray,
        surprise: FloatArray,
        factors: FloatArray,
        ticket_weights: FloatArray,
    ) -> FloatArray:
        """Return [M] float64 guesses; surprise, factors and ticket weights are not looked at."""
        scale = np.maximum(lengths, 1).astype(np.float64) ** self.length_exponent
        return np.abs(advantages) ** self.advantage_exponent * scale


@dataclass(frozen=True, slots=True)
class SurpriseProxy:
    """|A|^b S^e L^d times aggregation factor times ticket weight; ours, not the paper's.

    The surprise S predicts the squared norm of a response's summed score with r = .96, length with
    .90 (SmolLM2-135M). On-policy the summed score is a sum of martingale differences, whose squares
    add up: hence the default e = 1/2, and d = 0 beyond what the factor says. A calibration on
    measured gradients may put fitted exponents here.
    """

    advantage_exponent: float = 1.0
    """b, the exponent of |A|; positive."""
    surprise_exponent: float = 0.5
    """e, the exponent of the surprise; not negative, and 0 leaves the surprise out."""
    length_exponent: float = 0.0
    """d, the exponent of the length beside the length in the aggregation factor."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("proxy.", self, EXPONENTS | {"surprise_exponent": amount()})

    def with_exponents(self, advantage: float, surprise: float, length: float) -> "SurpriseProxy":
        """Return the proxy with fitted exponents, those out of range moved to its edge."""
        return SurpriseProxy(
            advantage_exponent=max(advantage, LEAST_EXPONENT),
            surprise_exponent=max(surprise, 0.0),
            length_exponent=length,
        )

    def score(
        self,
        advantages: FloatArray,
        lengths: IntArray,
        surprise: FloatArray,
        factors: FloatArray,
        ticket_weights: FloatArray,
    ) -> FloatArray:
        """Return [M] float64 guesses; an empty response counts as one token."""
        scale = np.maximum(lengths, 1).astype(np.float64) ** self.length_exponent
        norms: FloatArray = (
            np.abs(advantages) ** self.advantage_exponent
            * surprise**self.surprise_exponent
            * scale
            * factors
            * ticket_weights
        )
        return norms
