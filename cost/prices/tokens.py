"""The price in tokens that the machine processes."""

from dataclasses import dataclass

import numpy as np

from cost.prompts import TurnsTaken
from cost.ranges import amount, require_ranges
from cost.types import FloatArray, IntArray


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

    tool_second_tokens: float = 0.0
    """Tokens that a second counts as in which a response waits for a tool and holds a slot."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {
            "overhead_tokens": amount(),
            "tool_second_tokens": amount(),
            "prompt_share": amount(1),
        }
        require_ranges("price.", self, ranges)

    def of_drawing(
        self, prompt_tokens: IntArray, lengths: FloatArray, group_size: int
    ) -> FloatArray:
        """Return float64 tokens, the same as for training."""
        return self.of_training(prompt_tokens, lengths)

    def of_turns(
        self, prompt_tokens: IntArray, lengths: FloatArray, turns: TurnsTaken
    ) -> FloatArray:
        """Return float64 tokens that a tool's time is worth, and a third of those computed again.

        They take the first of the three passes that a token's price is for, as in `of_generating`.
        """
        again = turns.prefill_tokens - turns.given_tokens
        return again / 3.0 + self.tool_second_tokens * turns.tool_seconds

    def of_generating(
        self, prompt_tokens: IntArray, lengths: IntArray | FloatArray, group_sizes: IntArray
    ) -> FloatArray:
        """Return a third of the tokens: of three passes' worth of work generation is the first."""
        return self.of_training(prompt_tokens, lengths) / 3.0

    def of_training(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return float64 tokens, at least 1 (an empty response still takes a slot)."""
        cost = self.overhead_tokens + self.prompt_share * prompt_tokens + lengths
        return np.maximum(np.asarray(cost, dtype=np.float64), 1.0)
