"""Attention over a packed row, one piece after the other.

    [P R_1 R_2 ... | P' R'_1 ... | S]     a row: responses behind one copy of their prompt, or whole
     0.. p.. p..     0.. p'..      0..    positions

A packed row's segments must not see each other. With a mask, attention still computes the whole
T x T square of the row; taking each piece by itself computes only the blocks that count. The result
is the same, and so is the gradient.

The positions say all there is to know. One that does not continue the one before begins a piece: at
0 a segment, at p > 0 another response to the first p tokens of the last segment. The prefix is
computed once, and each response against the prefix and itself (Prefix Grouper, 2506.05433,
section 3, read second-hand; the reading of the positions is ours).

On GPUs with a kernel for it all pieces go in one call (`learner.varlen`), unless the model asks for
`PIECES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from learner.grouped_heads import attend_grouped
from learner.varlen import Sequences, attend_sequences, obstacle, sequences_of
from learner.window_attention import attend_last

NAME = "packed_segments"
PIECES = "packed_pieces"
"""The same one piece after the other, on all devices."""
_REFUSED = ("s_aux", "position_bias")
"""Arguments that change the scores in a way that is not computed here."""
_LAYOUT = "packed_layout"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names the pieces of a packed row, in order."""

    sizes: tuple[int, ...]
    """Tokens of each piece, positive, T in all."""
    prefixes: tuple[int | None, ...]
    """For each piece the earlier piece that it sees besides itself."""

    @property
    def longest_context(self) -> int:
        """Return the largest number of tokens that one token sees, itself included."""
        return max(self._contexts())

    def mask(self, like: Tensor) -> Tensor:
        """Make one mask of 0 and -inf from which `columns` cuts that of every response."""
        rows, offset = self._mask_shape()
        allowed = torch.ones(rows, offset + rows, dtype=torch.bool, device=like.device).tril(offset)
        return torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, -torch.inf)

    def columns(self, piece: int) -> slice:
        """Return the columns of `mask` that are the keys of a response, prefix first."""
        offset = self._mask_shape()[1]
        prefix = self.prefixes[piece]
        assert prefix is not None
        return slice(offset - self.sizes[prefix], offset + self.sizes[piece])

    def _contexts(self) -> list[int]:
        return [
            size + (0 if prefix is None else self.sizes[prefix])
            for size, prefix in zip(self.sizes, self.prefixes, strict=True)
        ]

    def _mask_shape(self) -> tuple[int, int]:
        shared = [
            (size, self.sizes[prefix])
            for size, prefix in zip(self.sizes, self.prefixes, strict=True)
            if prefix is not None
        ]
        return max(size for size, _ in shared), max(prefix for _, prefix in shared)


def layout_of(position_ids: Tensor) -> Layout:
    """Read a row's layout off its positions [T] int64, T at least 1.

    Raises:
        ValueError: If a piece's first position points at no prefix, or at another one than that of
            the responses before it.
    """
    goes_on = position_ids[1:] == position_ids[:-1] + 1
    starts = [0, *((~goes_on).nonzero().squeeze(1) + 1).tolist()]
    ends = [*starts[1:], len(position_ids)]
    places = position_ids[starts].tolist()
    sizes: list[int] = []
    prefixes: list[int | None] = []
    root, prompt = 0, 0
    for start, end, place in zip(starts, ends, places, strict=True):
        if place == 0:
            root, prompt = len(sizes), 0
            sizes.append(end - start)
            prefixes.append(None)
            continue
        if not sizes or (place > sizes[root] if prompt == 0 else place != prompt):
            raise ValueError(
                "position_ids must restart at 0, or at the length of the prompt that the responses "
                f"share, got {place} at token {start}"
            )
        if prompt == 0:
            # The first response followed its prompt without a break.
            first, prompt = sizes[root] - place, place
            sizes[root] = place
            if first:
                sizes.append(first)
                prefixes.append(root)
        sizes.append(end - start)
        prefixes.append(root)
    return Layout(tuple(sizes), tuple(prefixes))


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
    softcap: float | None = None,
    is_causal: bool | None = None,
    varlen: bool = True,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment; an attention function as transformers calls it.

    Args:
        module: The attention layer.
        query: [1, H, T, D]
        key: [1, H_kv, T, D]; H is a multiple of H_kv.
        value: [1, H_kv, T, D_v]
        attention_mask: It must be None.
        scaling: What the scores are multiplied by; None for D ** -0.5.
        dropout: It must be 0: the rollout engine drops nothing.
        position_ids: [1, T], see `layout_of`.
        sliding_window: Most tokens of its segment that a token sees, itself included; None for all.
        softcap: See `learner.window_attention.attend_last`.
        is_causal: It must not be False, nor may the layer's own `is_causal`.
        varlen: Whether all pieces go in one call where the device has a kernel for it.
        others: They are refused where they change the scores, and else of no concern.

    Returns:
        [1, T, H, D_v], and None for the attention weights.

    Raises:
        ValueError: If the model asks for something else than causal attention in packed rows.
    """
    position_ids = _positions(module, query, position_ids, attention_mask, dropout)
    _check_scores(module, is_causal, others)
    one_call = varlen and softcap is None and obstacle(query, value) is None
    layout, mask, sequences = _remembered(position_ids, query, one_call=one_call)
    if sliding_window is not None and layout.longest_context <= sliding_window:
        sliding_window = None
    if sequences is not None:
        packed = attend_sequences(
            sequences, query, key, value, scaling=scaling, window=sliding_window
        )
        return packed, None
    if sliding_window is None and softcap is None:
        out = _attend_pieces(layout, mask, query, key, value, scaling)
    else:
        out = [
            attend_last(q, k, v, scaling=scaling, window=sliding_window, softcap=softcap)
            for q, k, v in _pieces(layout, query, key, value)
        ]
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def _positions(
    module: torch.nn.Module,
    query: Tensor,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    if position_ids is None or attention_mask is not None or len(query) != 1 or dropout:
        raise ValueError(
            f"model.path: {type(module).__name__} does not call attention as packed rows need it "
            "(one row, position ids, no mask, no dropout); choose another architecture, got "
            f"{len(query)} rows, dropout {dropout}"
        )
    return position_ids


def _check_scores(module: torch.nn.Module, is_causal: bool | None, others: dict[str, Any]) -> None:
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if refused or not causal:
        raise ValueError(
            f"model.path: {type(module).__name__} must attend causally and with plain scores in "
            "packed rows; choose another architecture, got "
            + (", ".join(refused) if refused else "is_causal False")
        )


def _attend_pieces(
    layout: Layout,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
) -> list[Tensor]:
    """Let each piece of t tokens attend to its prefix and itself: [1, H, t, D] each."""
    out = []
    for piece, (q, k, v) in enumerate(_pieces(layout, query, key, value)):
        if layout.prefixes[piece] is None:
            out.append(attend_grouped(q, k, v, is_causal=True, scaling=scaling))
            continue
        bias: Any = (
            causal_lower_right(q.shape[2], k.shape[2])
            if mask is None
            else mask[: q.shape[2], layout.columns(piece)]
        )
        out.append(attend_grouped(q, k, v, mask=bias, scaling=scaling))
    return out


def _pieces(
    layout: Layout, query: Tensor, key: Tensor, value: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each piece's queries, and the keys and values of its prefix and itself."""
    # Splitting, unlike slicing, has a gradient that is written once.
    queries, keys, values = (torch.split(t, list(layout.sizes), 2) for t in (query, key, value))
    for q, k, v, prefix in zip(queries, keys, values, layout.prefixes, strict=True):
        if prefix is None:
            yield q, k, v
        else:
            yield q, torch.cat([keys[prefix], k], 2), torch.cat([values[prefix], v], 2)


def _remembered(
    position_ids: Tensor, query: Tensor, *, one_call: bool
) -> tuple[Layout, Tensor | None, Sequences | None]:
    """Layout of the row, its mask where the kernel wants one, and its sequences for one call.

    All layers get the same position ids, and to read them off a GPU is to wait for it: what was
    found stays with the tensor. GPUs have kernels for this mask that need none to be written out.
    """
    asked = query.dtype, one_call
    found: Any = getattr(position_ids, _LAYOUT, None)
    if found is None or found[0] != asked:
        layout = layout_of(position_ids[0])
        masked = query.device.type == "cpu" and any(p is not None for p in layout.prefixes)
        mask = layout.mask(query) if masked else None
        sequences = sequences_of(layout.sizes, layout.prefixes, query.device) if one_call else None
        found = asked, (layout, mask, sequences)
        setattr(position_ids, _LAYOUT, found)
    remembered: tuple[Layout, Tensor | None, Sequences | None] = found[1]
    return remembered


def register(*, varlen: bool = True) -> str:
    """Make the function known to transformers; returns the name to ask for it by.

    Args:
        varlen: False for `PIECES`.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionInterface.register(PIECES, partial(attend, varlen=False))
    return NAME if varlen else PIECES
