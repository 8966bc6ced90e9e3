"""Torch's attention where several heads of queries share keys and values."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.nn.functional import scaled_dot_product_attention

from learner.varlen import obstacle


def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scaling: float | None = None,
) -> Tensor:
    """Attend, on GPUs by a kernel that never writes all scores out.

    Args:
        query: [1, H, Q, D]
        key: [1, H_kv, K, D]; H is a multiple of H_kv.
        value: [1, H_kv, K, D_v]
        mask: Scores [Q, K] to add, or which of them count; a `CausalBias` is not written out.
        is_causal: The same for Q = K tokens that see those before them.
        scaling: What the scores are multiplied by; None for D ** -0.5.

    Returns:
        [1, H, Q, D_v]
    """
    shared = query.shape[1] != key.shape[1]
    if shared and _needs_copies(query, value, mask):
        per_key = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(per_key, 1) for part in (key, value))
        shared = False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=shared
    )


def _needs_copies(query: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether a GPU's only kernel for it, but for the one with all scores, takes no shared heads.

    Flash attention takes them; what it does not compute is for memory-efficient attention.
    """
    if query.device.type != "cuda":
        return False
    written_out = mask is not None and not isinstance(mask, CausalBias)
    return written_out or obstacle(query, value) is not None
