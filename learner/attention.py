"""Attention over a packed row, one segment after the other.

A packed row's segments must not see each other. With a mask, attention still computes the whole
T x T square of the row; taking each segment by itself computes only the blocks that count, needs no
mask, and lets every block use the causal kernel. The result is the same, and so is the gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "packed_segments"


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment; an attention function as transformers calls it.

    Args:
        module: The attention layer.
        query: [1, H, T, D]
        key: [1, H_kv, T, D]; H is a multiple of H_kv.
        value: [1, H_kv, T, D]
        attention_mask: Must be None.
        scaling: Of the scores; None for D ** -0.5.
        dropout: Must be 0: the rollout engine drops nothing.
        position_ids: [1, T], 0 at the start of every segment.
        sliding_window: Refused where a segment is longer.

    Returns:
        [1, T, H, D], and None for the attention weights.

    Raises:
        ValueError: If the model asks for something else than causal attention in packed rows.
    """
    if position_ids is None or attention_mask is not None or len(query) != 1 or dropout:
        raise ValueError(
            f"model.path: {type(module).__name__} does not call attention as packed rows need it "
            "(one row, position ids, no mask, no dropout); choose another architecture, got "
            f"{len(query)} rows, dropout {dropout}"
        )
    starts = (position_ids[0] == 0).nonzero().squeeze(1).tolist()
    sizes = [end - start for start, end in zip(starts, [*starts[1:], query.shape[2]], strict=True)]
    if sliding_window is not None and max(sizes) > sliding_window:
        raise ValueError(
            "model.max_model_len must not exceed the model's sliding attention window of "
            f"{sliding_window} tokens, got a segment of {max(sizes)}"
        )
    blocks = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*(torch.split(t, sizes, 2) for t in (query, key, value)), strict=True)
    ]
    return torch.cat(blocks, 2).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the function known to transformers; returns the name to ask for it by."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME
