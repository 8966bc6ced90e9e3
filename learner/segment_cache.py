"""A long segment's keys and values, chunk after chunk, and the gradients that wait for them.

A chunk attends to what the chunks before it wrote. Going back from the last chunk to the first,
what a chunk's backward pass leaves at keys and values of earlier chunks waits for their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from learner.attention import PIECES
from learner.grouped_heads import attend_grouped
from learner.varlen import attend_sequences, last_of, obstacle
from learner.window_attention import attend_last

NAME = "chunked_segment"
PLAIN = "chunked_segment_plain"
"""The same without the kernel of `learner.varlen`, for models that ask for `PIECES`."""


class _Joined(torch.autograd.Function):
    """A chunk's keys or values [1, H_kv, C, D] -> those of the segment up to the chunk's end.

    What is returned was written in the first pass and is not copied. The gradient of what earlier
    chunks wrote goes straight to where it waits for them.
    """

    @staticmethod
    def forward(ctx: Any, fresh: Tensor, stored: Tensor, waiting: Tensor) -> Tensor:
        ctx.waiting, ctx.past = waiting, stored.shape[2] - fresh.shape[2]
        return stored

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.waiting[:, :, : ctx.past] += gradient[:, :, : ctx.past]
        return gradient[:, :, ctx.past :], None, None


class SegmentCache:
    """Keys and values of one segment, as a transformers model takes its cache.

    Args:
        num_tokens: How many the segment has.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._past = 0
        self._stored: dict[int, list[Tensor]] = {}
        self._waiting: dict[int, list[Tensor]] = {}
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, past: int) -> SegmentCache:
        """Go on, or back, to the chunk that begins after so many tokens."""
        self._past = past
        self._fresh = {}
        return self

    def goes_on_after(self, num_tokens: int) -> bool:
        """Whether the segment has more tokens than a chunk of so many from here on."""
        return self._past + num_tokens < self._num_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Count the tokens before the chunk."""
        return self._past

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Take a chunk's keys and values [1, H_kv, C, D] of a layer and return all up to them.

        With a graph, those of all chunks must have been taken before.
        """
        new = key, value
        stop = self._past + key.shape[2]
        if not torch.is_grad_enabled():
            if layer_idx not in self._stored:
                self._stored[layer_idx] = [self._room(part, part.dtype) for part in new]
            for stored, part in zip(self._stored[layer_idx], new, strict=True):
                stored[:, :, self._past : stop] = part
            keys, values = (stored[:, :, :stop] for stored in self._stored[layer_idx])
            return keys, values
        if layer_idx not in self._waiting:
            # In float32, or many chunks' small parts would be rounded away.
            wide = torch.promote_types(key.dtype, torch.float32)
            self._waiting[layer_idx] = [self._room(part, wide) for part in new]
        self._fresh[layer_idx] = new
        if not self._past:
            return new
        keys, values = (
            _Joined.apply(part, stored[:, :, :stop], waiting)  # type: ignore[no-untyped-call]
            for part, stored, waiting in zip(
                new, self._stored[layer_idx], self._waiting[layer_idx], strict=True
            )
        )
        return keys, values

    def _room(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        batch, heads, _, dimension = like.shape
        return like.new_zeros((batch, heads, self._num_tokens, dimension), dtype=dtype)

    def waiting(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chunk's keys and values that have a graph, and the gradients left at them.

        They are given once: the next chunk's first token is among the tokens of two chunks.
        """
        for layer_idx, parts in self._fresh.items():
            for part, waiting in zip(parts, self._waiting[layer_idx], strict=True):
                if part.requires_grad:
                    left = waiting[:, :, self._past : self._past + part.shape[2]]
                    yield part, left.to(part.dtype, copy=True)
                    left.zero_()


@lru_cache(maxsize=1)
def _mask(num_queries: int, num_keys: int, dtype: torch.dtype) -> Tensor:
    """Scores [Q, K] to add on CPUs: 0, and -inf for keys after the query. One for all layers."""
    mask = torch.full((num_queries, num_keys), -torch.inf, dtype=dtype)
    return mask.triu_(num_keys - num_queries + 1)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    varlen: bool = True,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of a segment's last tokens to all of it, as transformers calls it.

    Args:
        module: The attention layer.
        query: [1, H, C, D]
        key: [1, H_kv, T, D] with T >= C; H is a multiple of H_kv.
        value: [1, H_kv, T, D_v]
        attention_mask: It must be None.
        scaling: What the scores are multiplied by; None for D ** -0.5.
        dropout: It must be 0.
        sliding_window: Most tokens that a token sees, itself included; None for all.
        softcap: See `learner.window_attention.attend_last`.
        varlen: Whether the kernel of `learner.varlen` computes it where it can.

    Returns:
        [1, C, H, D_v], and None for the attention weights.

    Raises:
        ValueError: If the model asks for another attention.
    """
    num_keys = key.shape[2]
    if sliding_window is not None and num_keys <= sliding_window:
        sliding_window = None
    if attention_mask is not None or dropout or len(query) != 1:
        raise ValueError(
            "learner.chunk_tokens must be null for a model whose attention is not causal over "
            f"whole segments, got {type(module).__name__}"
        )
    if varlen and softcap is None and obstacle(query, value) is None:
        last = last_of(query.shape[2], num_keys, query.device)
        out = attend_sequences(last, query, key, value, scaling=scaling, window=sliding_window)
        return out, None
    if sliding_window is not None or softcap is not None:
        output = attend_last(
            query, key, value, scaling=scaling, window=sliding_window, softcap=softcap
        )
    elif num_keys == query.shape[2]:
        output = attend_grouped(query, key, value, is_causal=True, scaling=scaling)
    else:
        # The queries are the last tokens. GPUs have kernels for that, which need no mask in memory.
        mask: Any = (
            _mask(query.shape[2], num_keys, query.dtype)
            if query.device.type == "cpu"
            else causal_lower_right(query.shape[2], num_keys)
        )
        output = attend_grouped(query, key, value, mask=mask, scaling=scaling)
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def caching(model: Any, cache: SegmentCache) -> Iterator[None]:
    """Within it the model's layers write into the cache and attend to what is in it."""

    def give(_: nn.Module, arguments: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, settings | {"past_key_values": cache, "use_cache": True}

    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionInterface.register(PLAIN, partial(attend, varlen=False))
    config, decoder = model.config, model.get_decoder()
    before = config._attn_implementation
    handle = decoder.register_forward_pre_hook(give, with_kwargs=True)
    config._attn_implementation = PLAIN if before == PIECES else NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        handle.remove()
