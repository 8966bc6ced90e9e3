"""Attention of a sequence's last tokens to all of it, through a window or with capped scores.

    queries  Q of the last tokens, block by block
    keys     K, of which a block sees those up to itself, and at most `window` of them each

A block of queries meets only the keys that one of its tokens sees, so that a window costs what it
covers and not the square of the sequence.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from learner.grouped_heads import attend_grouped

_BLOCK = 512
"""Queries of a block where no window says how many."""


def attend_last(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Let the last Q of K tokens attend to what comes before them.

    Args:
        query: [1, H, Q, D]
        key: [1, H_kv, K, D] with K >= Q; H is a multiple of H_kv.
        value: [1, H_kv, K, D_v]
        scaling: What the scores are multiplied by; None for D ** -0.5.
        window: Most tokens that one sees, itself included; None for all.
        softcap: c, where scores s become c tanh(s / c) (Gemma 2, 2408.00118); None for s.

    Returns:
        [1, H, Q, D_v]
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    size = _BLOCK if window is None else window
    past = num_keys - num_queries
    out = []
    for start in range(0, num_queries, size):
        stop = min(start + size, num_queries)
        first = 0 if window is None else max(0, past + start - window + 1)
        seen = slice(first, past + stop)
        q, k, v = query[:, :, start:stop], key[:, :, seen], value[:, :, seen]
        bias = _bias(stop - start, k.shape[2], window, query.dtype, query.device)
        if softcap is None:
            out.append(attend_grouped(q, k, v, mask=bias, scaling=scale))
        else:
            # Scores of one block at a time, in the backward pass too.
            out.append(checkpoint(_capped, q, k, v, bias, scale, softcap, use_reentrant=False))
    return torch.cat(out, 2)


def _capped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, softcap: float) -> Tensor:
    per_key = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(per_key, 1), v.repeat_interleave(per_key, 1)
    scores = torch.tanh(q @ k.transpose(2, 3) * (scale / softcap)) * softcap + bias
    wide = torch.promote_types(q.dtype, torch.float32)
    return scores.softmax(-1, dtype=wide).to(q.dtype) @ v


@lru_cache(maxsize=4)
def _bias(
    num_queries: int, num_keys: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Scores [Q, K] to add: 0, and -inf for keys after the query or out of its window."""
    ages = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    ages = ages - torch.arange(num_keys, device=device)
    hidden = ages < 0 if window is None else (ages < 0) | (ages >= window)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, -torch.inf)
