"""Tensors as of a GPU, on machines without one: they have shapes and no values."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def gpu_tensors(
    *shapes: Sequence[int], dtype: torch.dtype, capability: tuple[int, int] = (8, 0)
) -> Iterator[list[Tensor]]:
    """Make tensors of an NVIDIA GPU with this compute capability."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        yield [torch.empty(shape, device="cuda", dtype=dtype) for shape in shapes]
