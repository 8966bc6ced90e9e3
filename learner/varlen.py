"""Attention over a packed row in one call of a kernel for sequences of different lengths.

    [P R_1 R_2 S]      queries  P | R_1   | R_2   | S       each a sequence of its own
                       keys     P | P R_1 | P R_2 | S       gathered, prefix first

It computes what `learner.attention` computes piece by piece: there a row of many short responses is
many small kernels in every layer. The kernel is torch's (flash attention, 2307.08691), which lines
queries up with the last of their keys. It runs on GPUs only; what it is told is the same anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

Kernel = Callable[..., Any]
"""Called as `torch.nn.attention.varlen.varlen_attn` is."""
LEAST_CAPABILITY = (8, 0)
"""Of GPUs that the kernel runs on: NVIDIA's from the A100 on."""
MOST_DIMENSIONS = 256
"""Of an attention head, a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """What the kernel is told of a row of T tokens in N pieces."""

    keys: Tensor | None
    """[T_k] int64, tokens whose keys the pieces see, piece after piece, a prefix before the piece;
    None for all tokens as they are."""
    query_ends: Tensor
    """[N + 1] int32, from 0 to T: where pieces end among the queries."""
    key_ends: Tensor
    """[N + 1] int32, from 0 to T_k."""
    longest_queries: int
    """Tokens of the longest piece."""
    longest_keys: int
    """The same with its prefix."""


def sequences_of(
    sizes: Sequence[int], prefixes: Sequence[int | None], device: torch.device
) -> Sequences:
    """Lay a row's pieces out for the kernel.

    Args:
        sizes: Tokens of each piece, positive.
        prefixes: For each piece the earlier piece that it sees besides itself.
        device: Where the row is.

    Example:
        sequences_of([2, 1, 1], [None, 0, 0], device) has the keys [0, 1, 0, 1, 2, 0, 1, 3], query
        ends [0, 2, 3, 4] and key ends [0, 2, 5, 8].
    """
    places = torch.split(torch.arange(sum(sizes)), list(sizes))
    seen = [
        own if prefix is None else torch.cat([places[prefix], own])
        for own, prefix in zip(places, prefixes, strict=True)
    ]
    counts = [len(each) for each in seen]
    shared = any(prefix is not None for prefix in prefixes)
    return Sequences(
        keys=torch.cat(seen).to(device) if shared else None,
        query_ends=_ends(sizes).to(device),
        key_ends=_ends(counts).to(device),
        longest_queries=max(sizes),
        longest_keys=max(counts),
    )


def _ends(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).to(torch.int32)


@lru_cache(maxsize=1)
def last_of(num_queries: int, num_keys: int, device: torch.device) -> Sequences:
    """Lay out the last tokens of one sequence, which see all before them. One for all layers."""
    return Sequences(
        keys=None,
        query_ends=_ends([num_queries]).to(device),
        key_ends=_ends([num_keys]).to(device),
        longest_queries=num_queries,
        longest_keys=num_keys,
    )


def obstacle(query: Tensor, value: Tensor) -> str | None:
    """Say why the kernel cannot take these, None where it can.

    Args:
        query: [1, H, T, D]
        value: [1, H_kv, T_k, D_v]
    """
    if query.device.type != "cuda" or torch.version.cuda is None:
        return f"it runs on NVIDIA GPUs, not on {query.device.type}"
    if query.dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in 16 bits, not in {query.dtype}"
    if torch.cuda.get_device_capability(query.device) < LEAST_CAPABILITY:
        return "it needs a GPU of compute capability 8.0 or more"
    if query.shape[3] > MOST_DIMENSIONS or query.shape[3] % 8:
        return f"it has heads of at most {MOST_DIMENSIONS} dimensions, a multiple of 8"
    if query.shape[3] != value.shape[3]:
        return "it has values as wide as queries"
    return None


def attend_sequences(
    sequences: Sequences,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None = None,
    window: int | None = None,
    kernel: Kernel = varlen_attn,
) -> Tensor:
    """Let every piece attend to its prefix and, causally, to itself.

    Args:
        sequences: From `sequences_of` or `last_of`.
        query: [1, H, T, D]
        key: [1, H_kv, T_k, D]; H is a multiple of H_kv. There are as many as queries, but for
            `last_of`.
        value: [1, H_kv, T_k, D]
        scaling: What the scores are multiplied by; None for D ** -0.5.
        window: Most tokens that one sees, itself included; None for all.
        kernel: What computes it.

    Returns:
        [1, T, H, D]
    """
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if sequences.keys is not None:
        # Its gradient sums over all pieces that see a prefix.
        k, v = k.index_select(0, sequences.keys), v.index_select(0, sequences.keys)
    out: Tensor = kernel(
        q,
        k,
        v,
        sequences.query_ends,
        sequences.key_ends,
        sequences.longest_queries,
        sequences.longest_keys,
        scale=scaling,
        # Tokens before a query's own, and after it.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    return out[None]
