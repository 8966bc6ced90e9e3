"""Plug `price`: what a response costs, from its length.

Contract: `of_drawing(prompt_tokens, lengths, group_size)` is what generating a response and
learning from it is expected to cost, for the allocator; `of_training(prompt_tokens, lengths)` is
what training on a finished one costs, for the thinning. Both are elementwise on arrays of one shape
(or shapes that broadcast), positive and not decreasing in the length. A price that is fitted to
measured seconds is a `FittedPrice`, with a state (cost/state.py); see cost/prices/seconds.py.

The unit only has to be the same for all: every rule that uses a cost is invariant to its scale.
"""

from typing import Any, Protocol, runtime_checkable

from cost.prompts import TurnsTaken
from cost.types import BatchSpending, FloatArray, IntArray


@runtime_checkable
class Price(Protocol):
    """Turns token counts into a cost."""

    def of_drawing(
        self, prompt_tokens: IntArray, lengths: FloatArray, group_size: int
    ) -> FloatArray:
        """Return the expected cost of a response of a group of `group_size`."""

    def of_training(self, prompt_tokens: IntArray, lengths: IntArray) -> FloatArray:
        """Return the cost of training on responses of `lengths` tokens."""


@runtime_checkable
class ChargesTurns(Price, Protocol):
    """A price that knows what several turns cost; others charge each token as a sampled one."""

    def of_turns(
        self, prompt_tokens: IntArray, lengths: FloatArray, turns: TurnsTaken
    ) -> FloatArray:
        """Return what turns add to generating, which is priced as if all tokens were sampled.

        Args:
            prompt_tokens: [N] int.
            lengths: [N] tokens of a response, its environment's among them.
            turns: What of them is not sampled, and what is computed besides.
        """
        ...


@runtime_checkable
class ScoresOwnTokens(Price, Protocol):
    """A price that knows that the learner computes no logits of what an environment wrote."""

    trained_share: float
    """Mean number of passes of the learner that `of_drawing` expects for a response."""

    def of_unscored(self, environment_tokens: IntArray | FloatArray) -> FloatArray:
        """Return the part of `of_training` that tokens of an environment do not cost."""
        ...


@runtime_checkable
class SharesPrompts(Price, Protocol):
    """A price that knows what of training a group's responses pay together."""

    def of_prompt(self, prompt_tokens: IntArray) -> FloatArray:
        """Return the part of `of_training` that a group costs once, however many are trained on.

        It is less than all of `of_training`, and 0 where each response has a prompt of its own.
        """
        ...


@runtime_checkable
class GeneratingPrice(Price, Protocol):
    """A price that also says what generating alone costs, for rules that weigh it against learning.

    Its unit is that of the other two.
    """

    def of_generating(
        self, prompt_tokens: IntArray, lengths: IntArray | FloatArray, group_sizes: IntArray
    ) -> FloatArray:
        """Return the cost of generating each response, with its share of the prompt."""


@runtime_checkable
class FittedPrice(Price, Protocol):
    """A price that learns from what engines and learners took."""

    def update_spending(self, state: Any, spending: BatchSpending) -> Any:
        """Return the state after one batch's spending, which follows the batch's visits."""

    def metrics(self, state: Any) -> dict[str, float]:
        """Return what was fitted, under keys of `cost.ledger.METRICS`."""
