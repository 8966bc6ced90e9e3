"""Rotary positions that depend on how long a text is, fixed as the engine fixes them.

LongRoPE (2402.13753) has two sets of factors, one for texts of at most the length that a model was
first trained with and one for longer ones. transformers chooses by the longest segment of a row, so
that what else is packed there would change a response. vLLM chooses once, by the longest text that
it takes, and so does this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fix_positions(model: PreTrainedModel, longest: int | None) -> None:
    """Let a model's positions be those of its engine, whatever the lengths in a row.

    Args:
        model: It is changed in place; one without LongRoPE stays as it is.
        longest: Tokens of the longest text that the engine takes; None for all that the model has
            positions for.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        rope: Any = module
        if getattr(rope, "rope_type", None) == "longrope":
            tokens = longest or rope.config.max_position_embeddings
            frequencies, rope.attention_scaling = ROPE_INIT_FUNCTIONS["longrope"](
                rope.config, rope.inv_freq.device, seq_len=tokens
            )
            rope.inv_freq.copy_(frequencies)
            # What transformers then computes with as it is.
            rope.rope_type = "default"
