"""Tensors that are sent together: one message for many small ones.

    shapes and dtypes -> cuts -> buckets
    tensors, in order -> packed -> one buffer a bucket ==> unpacked -> the same tensors

Both sides cut alike, as both know what is to come. A bucket of one tensor is the tensor itself.
vLLM packs tensors too, on CUDA's streams alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

MOST_BYTES = 2**24
"""Of a bucket with more than one tensor: what packing takes beyond the tensors themselves."""
ALIGNMENT = 16
"""Bytes; where a tensor may begin in a buffer, whatever its dtype."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a bucket.

    Example: Piece(dtype=torch.bfloat16, shape=(2, 3), begin=16)
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """Where it is in the buffer, bytes."""

    @property
    def num_bytes(self) -> int:
        """What it takes, without what aligns the next one."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def within(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the tensor, a view of the bucket's buffer."""
        own = buffer[self.begin : self.begin + self.num_bytes]
        return own.view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that follow each other."""

    pieces: tuple[Piece, ...]

    def buffer(self) -> torch.Tensor:
        """Return room for all of them: uint8, or the tensor itself if it is only one."""
        last = self.pieces[-1]
        if len(self.pieces) == 1:
            return torch.empty(last.shape, dtype=last.dtype)
        return torch.empty(last.begin + last.num_bytes, dtype=torch.uint8)

    def packed(self, tensors: Iterator[torch.Tensor]) -> torch.Tensor:
        """Take the next tensors and return what to send, on CPU.

        Args:
            tensors: With the shapes and dtypes of the pieces. Each need only last until the next.
        """
        if len(self.pieces) == 1:
            return next(tensors).cpu().contiguous()
        buffer = self.buffer()
        for piece in self.pieces:
            piece.within(buffer).copy_(next(tensors))
        return buffer

    def unpacked(self, buffer: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the tensors out of what was received, views of it."""
        if len(self.pieces) == 1:
            yield buffer
            return
        for piece in self.pieces:
            yield piece.within(buffer)


def cut(
    tensors: Sequence[tuple[torch.dtype, tuple[int, ...]]], most_bytes: int = MOST_BYTES
) -> list[Bucket]:
    """Put tensors that follow each other into buckets.

    Args:
        tensors: dtype and shape of each.
        most_bytes: Of a bucket; a tensor that is larger has one of its own.
    """
    buckets: list[Bucket] = []
    pieces: list[Piece] = []
    end = 0
    for dtype, shape in tensors:
        piece = Piece(dtype, shape, begin=-(-end // ALIGNMENT) * ALIGNMENT)
        if pieces and piece.begin + piece.num_bytes > most_bytes:
            buckets.append(Bucket(tuple(pieces)))
            pieces, piece = [], Piece(dtype, shape, begin=0)
        pieces.append(piece)
        end = piece.begin + piece.num_bytes
    if pieces:
        buckets.append(Bucket(tuple(pieces)))
    return buckets
