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
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from learner.logprobs import PackedPolicy
from learner.segment_cache import SegmentCache, caching

Chunk = tuple[int, int]
"""A chunk is the place of its first token in the row, and the place after its last."""


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
        with caching(self.model, cache):
            return super().forward(
                row.token_ids[part], row.position_ids[part], loss_mask, row.entropy_gradient
            )


class _Chunked(torch.autograd.Function):
    """Maps a row and the parameters to log-probabilities [T] and entropies [T]."""

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
