"""The most memory that a function holds at a time, by the tensors that its operators make."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(function: Callable[[], Any], model: nn.Module) -> int:
    """Call a function and return the most bytes that it held beside a model and its gradients.

    On a GPU it is the allocator's figure. On a CPU, where a process never gives its peak back, it
    is that of `PeakMemory`.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        most: int = torch.cuda.max_memory_allocated() - before
        return most
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    with PeakMemory(besides=[*parameters, *gradients]) as peak:
        function()
    found: int = peak.most
    return found


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operators inside it make, and what is freed of them.

    What an operator uses for itself and gives up before it returns is not seen.
    """

    def __init__(self, besides: Iterable[Tensor] = ()) -> None:
        """Leave out the tensors `besides`, which operators return views of."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in besides}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place == 0 or place in self._known:
            return
        self._known.add(place)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size
