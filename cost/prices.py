"""Plug `price`: what a response costs, from its length.

Contract: `price(prompt_tokens, lengths) -> cost`, elementwise on arrays of one shape (or shapes
that broadcast), positive, not decreasing in the length.

The unit only has to be the same for all: every rule that uses a cost is invariant to its scale.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cost.types import FloatArray, IntArray


class Price(Protocol):
    """Turns token counts into a cost."""

    def price(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return the cost of responses of `lengths` tokens to prompts of `prompt_tokens`."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Tokens the machine processes: the response, its share of the prompt, a fixed overhead.

    cost = overhead + prompt_share * prompt + length       (the paper: linear in length)
    """

    overhead_tokens: float = 0.0
    """Fixed cost of a response, in tokens; a positive one weakens the effect of length."""
    prompt_share: float = 1.0
    """Share of the prompt that one response pays, in [0, 1]: 1 where each response repeats its
    prompt (the learner), 1 / n where n responses share it (a prefix cache)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.overhead_tokens >= 0:
            raise ValueError(
                f"price.overhead_tokens must not be negative, got {self.overhead_tokens!r}"
            )
        if not 0 <= self.prompt_share <= 1:
            raise ValueError(f"price.prompt_share must lie in [0, 1], got {self.prompt_share!r}")

    def price(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return float64 cost tokens, at least 1 (an empty response still takes a slot)."""
        cost = self.overhead_tokens + self.prompt_share * prompt_tokens + lengths
        return np.maximum(np.asarray(cost, dtype=np.float64), 1.0)
