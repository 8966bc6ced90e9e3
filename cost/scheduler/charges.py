"""What a price makes of generating and of turns, which it may know of or not."""

from dataclasses import replace
from typing import Any

import numpy as np

from cost.advantages.types import GroupBatch
from cost.prices.types import ChargesTurns, GeneratingPrice, ScoresOwnTokens
from cost.prompts import PromptPool, TurnsTaken
from cost.types import FloatArray, IntArray


def drawing_turns(
    price: Any,
    state: dict[str, Any],
    prompts: PromptPool,
    lengths: FloatArray,
    turns: TurnsTaken | None,
) -> FloatArray | float:
    """Return [N] what turns are expected to add to a price's `of_drawing`; 0 if it does not know.

    Args:
        price: The plug.
        state: Its keywords.
        prompts: N prompts.
        lengths: [N] expected, tokens.
        turns: What is expected of turns, [N]; None for single ones.
    """
    if turns is None or not isinstance(price, ChargesTurns):
        return 0.0
    # They are estimated apart from lengths: at least one token is the policy's.
    room = np.maximum(lengths - 1.0, 0.0)
    written = np.minimum(turns.environment_tokens, room)
    inherited = np.minimum(turns.inherited_tokens, room - written)
    turns = replace(turns, environment_tokens=written, inherited_tokens=inherited)
    costs = price.of_turns(prompts.prompt_tokens, lengths, turns, **state)
    if isinstance(price, ScoresOwnTokens):
        costs = costs - price.trained_share * price.of_unscored(written)
    return costs


def generating_cost(
    price: Any,
    state: dict[str, Any],
    groups: GroupBatch,
    prompt_tokens: IntArray,
    turns: TurnsTaken | None,
) -> float:
    """Return what generating a batch's responses cost; 0 where the price does not say.

    Args:
        price: The plug.
        state: Its keywords.
        groups: The batch.
        prompt_tokens: [R] of each response.
        turns: What their turns took, [R]; None where each had one.
    """
    if not isinstance(price, GeneratingPrice):
        return 0.0
    sizes = np.repeat(groups.sizes, groups.sizes)
    costs = price.of_generating(prompt_tokens, groups.lengths, sizes, **state)
    if turns is not None and isinstance(price, ChargesTurns):
        lengths = groups.lengths.astype(np.float64)
        costs = costs + price.of_turns(prompt_tokens, lengths, turns, **state)
    return float(costs.sum())
