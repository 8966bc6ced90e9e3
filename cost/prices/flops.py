"""The price in floating-point operations, from the shape of the model."""

from dataclasses import dataclass

import numpy as np

from cost.prices.shape import ModelShape
from cost.prompts import TurnsTaken
from cost.ranges import amount, require_ranges
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class FlopsPrice(ModelShape):
    """Floating-point operations of a dense decoder, from its shape.

    Logits are computed of all that the policy sampled, in engine and learner, and of nothing else.
    The quadratic part is priced at the expected length, not the expected square, for draws.
    """

    prefix_caching: bool = True
    """Whether the engine computes a prompt once for the whole group."""
    gradient_checkpointing: bool = False
    """Whether the learner computes the layers' forward pass twice."""
    shared_prefix: bool = True
    """Whether the learner computes a prompt once for the responses of a group, as it does with
    `learner.shared_prefix` and without `learner.chunk_tokens`."""
    trained_share: float = 1.0
    """Mean number of passes of the learner over a generated response, not negative: the share that
    thinning keeps, times the passes over a batch. Draws alone are priced with it."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ModelShape.__post_init__(self)
        require_ranges("price.", self, {"trained_share": amount()})

    def of_drawing(
        self, prompt_tokens: IntArray, lengths: FloatArray, group_size: int
    ) -> FloatArray:
        """Return float64 FLOPs of a response, its share of the prompt and its expected training."""
        generating = self.of_generating(prompt_tokens, lengths, np.asarray(group_size))
        training = self.of_training(prompt_tokens, lengths)
        training = training - (1 - 1 / group_size) * self.of_prompt(prompt_tokens)
        return generating + self.trained_share * training

    def of_generating(
        self, prompt_tokens: IntArray, lengths: IntArray | FloatArray, group_sizes: IntArray
    ) -> FloatArray:
        """Return float64 FLOPs of a response's forward pass with its share of the prompt's."""
        prompt_share = 1.0 / group_sizes if self.prefix_caching else 1.0
        return prompt_share * self._prompt(prompt_tokens) + self._response(prompt_tokens, lengths)

    def of_turns(
        self, prompt_tokens: IntArray, lengths: FloatArray, turns: TurnsTaken
    ) -> FloatArray:
        """Return float64 FLOPs of what is prefilled between turns, less the head that it skips.

        Those tokens stand, on average, in the middle of the response. Tools take no FLOPs.
        """
        again = turns.prefill_tokens - turns.given_tokens
        at = np.asarray(prompt_tokens, dtype=np.float64) + lengths / 2
        flops: FloatArray = again * (self.token + self.pair * at)
        return flops - self.head * turns.given_tokens

    def of_unscored(self, environment_tokens: IntArray | FloatArray) -> FloatArray:
        """Return float64 FLOPs of the head, forward and backward, that training leaves out."""
        return 3.0 * self.head * np.asarray(environment_tokens, dtype=np.float64)

    def of_prompt(self, prompt_tokens: IntArray) -> FloatArray:
        """Return float64 FLOPs of training on a prompt that responses share; 0 where none do."""
        passes = (4.0 if self.gradient_checkpointing else 3.0) * self.shared_prefix
        return passes * self._prompt(prompt_tokens)

    def of_training(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return float64 FLOPs of forward and backward (twice the forward) over both."""
        forward = self._prompt(prompt_tokens) + self._response(prompt_tokens, lengths)
        if not self.gradient_checkpointing:
            return 3.0 * forward
        # The head is none of the layers that are computed again.
        return 4.0 * forward - self.head * np.asarray(lengths, dtype=np.float64)

    def _prompt(self, prompt_tokens: IntArray) -> FloatArray:
        tokens = np.asarray(prompt_tokens, dtype=np.float64)
        return self.token * tokens + self.pair * tokens * (tokens + 1) / 2

    def _response(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return FLOPs of the response's forward pass, the prompt's keys and values at hand."""
        prompt = np.asarray(prompt_tokens, dtype=np.float64)
        length = np.asarray(lengths, dtype=np.float64)
        # Positions prompt + 1 ... prompt + length.
        attention = self.pair * length * (2 * prompt + length + 1) / 2
        return (self.token + self.head) * length + attention
