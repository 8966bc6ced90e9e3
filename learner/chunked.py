"""Training on long rows in chunks: the gradient of the whole in the memory of a chunk.

SeCO (sequential chunk-wise optimisation, 2505.16710): run all chunks without a graph and keep the
keys and values; then, from the last chunk to the first, run each once more with a graph, and
back-propagate its own loss together with the gradient that later chunks left at its keys and
values; what arrives at the keys and values of earlier chunks waits there for them. This is the
chain rule in another order, so the gradient is exact for any chunk size. What grows with the length
is the key-value cache and its gradient; activations are those of one chunk. The price is one more
forward pass.

Ours: seen from outside it is one function of the row, whose backward pass does the second half. Any
loss of the log-probabilities and entropies can follow, because its gradient with respect to them is
known before the first chunk is run again, and the engine sees each parameter's gradient once.
Short segments do not need the cache: as many as fit a chunk are run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from learner.logprobs import PackedPolicy

NAME = "chunked_segment"

Chunk = tuple[int, int]
"""First token, and the token after the last; places in the row."""


def chunks_of(position_ids: Tensor, chunk_tokens: int) -> list[list[Chunk]]:
    """Divide a row.

    Args:
        position_ids: [T] int64, 0 at the start of every segment.
        chunk_tokens: Most tokens of a chunk, at least 1.

    Returns:
        Groups in the row's order: one chunk of whole segments, or the chunks of one segment that is
        longer than a chunk (the last of them may be shorter). Responses that share a prompt count
        as one segment.

    Raises:
        ValueError: If responses share a prompt and do not fit a chunk together.
    """
    starts = (position_ids == 0).nonzero().squeeze(1).tolist()
    groups: list[list[Chunk]] = []
    for start, stop in zip(starts, [*starts[1:], len(position_ids)], strict=True):
        if stop - start > chunk_tokens:
            if int(position_ids[stop - 1]) != stop - start - 1:
                raise ValueError(
                    "learner.chunk_tokens must be null or at least the tokens of all responses "
                    f"that share a prompt, {stop - start} of them, got {chunk_tokens!r}"
                )
            edges = [*range(start, stop, chunk_tokens), stop]
            groups.append(list(pairwise(edges)))
        elif groups and len(groups[-1]) == 1 and stop - groups[-1][0][0] <= chunk_tokens:
            groups[-1] = [(groups[-1][0][0], stop)]
        else:
            groups.append([(start, stop)])
    return groups


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
        num_tokens: Of the segment.
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
        """Tokens before the chunk."""
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of a segment's last tokens to all of it, as transformers calls it.

    Args:
        module: The attention layer.
        query: [1, H, C, D]
        key: [1, H_kv, T, D] with T >= C; H is a multiple of H_kv.
        value: [1, H_kv, T, D]
        attention_mask: Must be None.
        scaling: Of the scores; None for D ** -0.5.
        dropout: Must be 0.
        sliding_window: Refused where the segment is longer.

    Returns:
        [1, C, H, D], and None for the attention weights.

    Raises:
        ValueError: If the model asks for another attention.
    """
    num_keys = key.shape[2]
    window = sliding_window is not None and num_keys > sliding_window
    if attention_mask is not None or dropout or len(query) != 1 or window:
        raise ValueError(
            "learner.chunk_tokens must be null for a model whose attention is not causal over "
            f"whole segments, got {type(module).__name__}"
        )
    if num_keys == query.shape[2]:
        output = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
    else:
        # The queries are the last tokens. GPUs have kernels for that, which need no mask in memory.
        mask: Any = (
            _mask(query.shape[2], num_keys, query.dtype)
            if query.device.type == "cpu"
            else causal_lower_right(query.shape[2], num_keys)
        )
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
        )
    return output.transpose(1, 2).contiguous(), None


@dataclass(frozen=True, slots=True)
class _Row:
    token_ids: Tensor
    position_ids: Tensor
    loss_mask: Tensor
    entropy_gradient: bool


class ChunkedPolicy(PackedPolicy):
    """A `PackedPolicy` that runs rows longer than a chunk in chunks, with the same results.

    The model must keep its parameters whole (no ZeRO-3) and write each layer's keys and values into
    a cache, as transformers' attention layers do.
    """

    def __init__(
        self, model: nn.Module, temperature: float, *, chunk_tokens: int, **settings: Any
    ) -> None:
        """Wrap a Hugging Face causal language model.

        Args:
            model: See `PackedPolicy`.
            temperature: Sampling temperature of the rollouts, positive.
            chunk_tokens: Most tokens of a chunk.
            settings: See `PackedPolicy`.

        Raises:
            ValueError: If a number is not positive.
        """
        super().__init__(model, temperature, **settings)
        if chunk_tokens < 1:
            raise ValueError(f"learner.chunk_tokens must be at least 1, got {chunk_tokens!r}")
        self.chunk_tokens = chunk_tokens

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        loss_mask: Tensor,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """See `PackedPolicy.forward`."""
        if not torch.is_grad_enabled() and len(token_ids) <= self.chunk_tokens:
            return super().forward(token_ids, position_ids, loss_mask, entropy_gradient)
        # Short rows, too: DeepSpeed joins gradients of several ranks in the order in which they
        # arrive, which must be the same for a rank with a long and one with a short row.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        row = _Row(token_ids, position_ids, loss_mask, entropy_gradient)
        logprobs, entropies = _Chunked.apply(self, row, *trained)  # type: ignore[no-untyped-call]
        return logprobs, entropies

    def run(self, row: _Row, chunk: Chunk, cache: SegmentCache | None) -> tuple[Tensor, Tensor]:
        """Score what a chunk's tokens predict.

        The result is indexed from the chunk's first token on, 0 there, and one longer than the
        chunk where the segment goes on.

        Args:
            row: The row.
            chunk: With the cache, one of a longer segment's; without, whole segments.
            cache: Positioned at the chunk.
        """
        start, stop = chunk
        if cache is None:
            part = slice(start, stop)
            return super().forward(
                row.token_ids[part],
                row.position_ids[part],
                row.loss_mask[part],
                row.entropy_gradient,
            )
        # With the token after the chunk, which the chunk's last token predicts.
        part = slice(start, stop + cache.goes_on_after(stop - start))
        loss_mask = row.loss_mask[part].clone()
        loss_mask[0] = False
        with _caching(self.model, cache):
            return super().forward(
                row.token_ids[part], row.position_ids[part], loss_mask, row.entropy_gradient
            )


@contextmanager
def _caching(model: Any, cache: SegmentCache) -> Iterator[None]:
    """Within it the model's layers write into the cache and attend to what is in it."""

    def give(_: nn.Module, arguments: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, settings | {"past_key_values": cache, "use_cache": True}

    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    config, decoder = model.config, model.get_decoder()
    before = config._attn_implementation
    handle = decoder.register_forward_pre_hook(give, with_kwargs=True)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        handle.remove()


class _Chunked(torch.autograd.Function):
    """Row and parameters -> log-probabilities [T] and entropies [T]."""

    @staticmethod
    def forward(
        ctx: Any, policy: ChunkedPolicy, row: _Row, *parameters: nn.Parameter
    ) -> tuple[Tensor, Tensor]:
        ctx.policy, ctx.row, ctx.parameters, ctx.kept = policy, row, parameters, None
        if len(row.token_ids) <= policy.chunk_tokens:
            return _Chunked._whole(ctx)
        scores = [torch.zeros_like(row.token_ids, dtype=torch.float32) for _ in range(2)]
        ctx.groups = []
        for chunks in chunks_of(row.position_ids, policy.chunk_tokens):
            first, end = chunks[0][0], chunks[-1][1]
            cache = SegmentCache(end - first) if len(chunks) > 1 else None
            ctx.groups.append((chunks, cache))
            for start, stop in chunks:
                if cache is not None:
                    cache.at(start - first)
                for whole, part in zip(scores, policy.run(row, (start, stop), cache), strict=True):
                    whole[start : start + len(part)] += part
        if not row.entropy_gradient:
            ctx.mark_non_differentiable(scores[1])
        return scores[0], scores[1]

    @staticmethod
    def _whole(ctx: Any) -> tuple[Tensor, Tensor]:
        """A row of one chunk: its graph is kept, and no second forward pass is needed."""
        row = ctx.row
        with torch.enable_grad():
            ctx.kept = ctx.policy.run(row, (0, len(row.token_ids)), None)
        ctx.groups = [([(0, len(row.token_ids))], None)]
        logprobs, entropies = (score.detach() for score in ctx.kept)
        if not row.entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *score_gradients: Tensor) -> tuple[Tensor | None, ...]:
        parameters = ctx.parameters
        with _adding_up(parameters) as totals:
            while ctx.groups:
                # A segment's keys and values are given up with its last chunk.
                chunks, cache = ctx.groups.pop()
                first = chunks[0][0]
                for start, stop in reversed(chunks):
                    if cache is not None:
                        cache.at(start - first)
                    with torch.enable_grad():
                        scores = ctx.kept or ctx.policy.run(ctx.row, (start, stop), cache)
                    pairs = [
                        (part, whole[start : start + len(part)])
                        for part, whole in zip(scores, score_gradients, strict=True)
                        if part.requires_grad
                    ]
                    if cache is not None:
                        pairs += cache.waiting()
                    if pairs:
                        outputs, gradients = zip(*pairs, strict=True)
                        torch.autograd.grad(outputs, parameters, gradients, allow_unused=True)
        # The graph of a step may outlive it; what it was made of need not.
        ctx.kept = None
        return (
            None,
            None,
            *(
                None if total is None else total.to(parameter.dtype)
                for total, parameter in zip(totals, parameters, strict=True)
            ),
        )


@contextmanager
def _adding_up(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor | None]]:
    """Sum what `torch.autograd.grad` finds for each parameter within it, as soon as it is found.

    Results of `torch.autograd.grad` are held until the last of them is there, a second model's
    worth of memory. Here its result is without memory, and of no use.
    """
    totals: list[Tensor | None] = [None] * len(parameters)

    def add(place: int, gradient: Tensor) -> Tensor:
        total = totals[place]
        if total is None:
            # In float32, or many chunks' small parts would be rounded away.
            wide = torch.promote_types(gradient.dtype, torch.float32)
            totals[place] = gradient.to(wide, copy=True)
        else:
            total.add_(gradient)
        return gradient.new_zeros(()).expand_as(gradient)

    handles = [
        parameter.register_hook(partial(add, place))  # type: ignore[no-untyped-call]
        for place, parameter in enumerate(parameters)
    ]
    try:
        yield totals
    finally:
        for handle in handles:
            handle.remove()
