"""Weights to an engine on the learner's own GPU: vLLM's backend for CUDA IPC, without pickling.

    learner: one buffer, filled anew for every bucket of weights -> its handle -> engine: maps it,
                                                                    copies and loads them

What a handle consists of goes through vLLM's messages, which carry plain values only unless they
may hold pickles (VLLM_ALLOW_INSECURE_SERIALIZATION). The types in it are always the same, and left
out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCTrainerInitInfo,
    IPCTrainerWeightTransferEngine,
    IPCWeightTransferEngine,
    IPCWeightTransferUpdateInfo,
)

from rollout.config import PACKED_BYTES
from rollout.reloading import forget_broken_update
from rollout.weight_transfer import WeightMetadata

_FIELDS = tuple(inspect.signature(rebuild_cuda_tensor).parameters)
"""Names of what a handle consists of, in their order."""
_TYPES = {
    "tensor_cls": torch.Tensor,
    "storage_cls": torch.storage.TypedStorage,
    "dtype": torch.uint8,
}
"""Of a buffer that weights are packed into."""


def plain(handle: Iterable[Any]) -> dict[str, Any]:
    """Return what `torch.multiprocessing.reductions.reduce_tensor` gives of a buffer, by name.

    Args:
        handle: The arguments of `rebuild_cuda_tensor`, of a uint8 tensor.

    Returns:
        Numbers, bytes and lists of numbers.

    Raises:
        ValueError: If the tensor is no such buffer.
    """
    named = dict(zip(_FIELDS, handle, strict=True))
    types = {name: named.pop(name) for name in _TYPES}
    if types != _TYPES:
        raise ValueError(f"a buffer of weights has other types than are expected: {types}")
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in named.items()
    }


def whole(sent: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of `rebuild_cuda_tensor` from what `plain` made of them."""
    named = {**sent, **_TYPES}
    return tuple(
        tuple(named[name]) if isinstance(named[name], list) else named[name] for name in _FIELDS
    )


def bucket_bytes(metadata: Iterable[WeightMetadata], most_bytes: int) -> int:
    """Return the size of the buffer: all weights, or part of them but never less than the largest.

    Args:
        metadata: Of all weights.
        most_bytes: What is enough unless a single weight is larger.
    """
    sizes = [m.dtype.itemsize * torch.Size(m.shape).numel() for m in metadata]
    return max(min(sum(sizes), most_bytes), *sizes)


def ipc_settings(rank: int, metadata: Iterable[WeightMetadata]) -> IPCTrainerInitInfo:
    """Return what vLLM's sender is told at this rank; `metadata` is of all weights."""
    room = bucket_bytes(metadata, PACKED_BYTES)
    return IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=room)


class IpcTrainerWeightTransferEngine(IPCTrainerWeightTransferEngine):
    """Sends as vLLM does, handles in plain values."""

    def _do_send(
        self,
        names: list[str],
        dtype_names: list[str],
        shapes: list[list[int]],
        ipc_handles: Any,
        tensor_sizes: list[int] | None = None,
    ) -> None:
        handles: Any = {gpu: plain(handle) for gpu, handle in ipc_handles.items()}
        super()._do_send(names, dtype_names, shapes, handles, tensor_sizes)

    def shutdown(self) -> None:
        """There is no group to leave."""


class IpcWeightTransferEngine(IPCWeightTransferEngine):
    """Receives as vLLM does, also after an update that broke off."""

    def parse_update_info(self, update_dict: dict[str, Any]) -> IPCWeightTransferUpdateInfo:
        """Read what a bucket consists of, and map its buffer.

        Raises:
            RuntimeError: If the system does not let it be mapped, with what does without.
        """
        handles = {gpu: whole(sent) for gpu, sent in update_dict["ipc_handles"].items()}
        self._map(handles)
        return super().parse_update_info({**update_dict, "ipc_handles": handles})

    def _map(self, handles: Mapping[str, tuple[Any, ...]]) -> None:
        """Map a buffer for `receive_weights`, which finds it; the next bucket is in it too."""
        index = self.device.index
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        if uuid not in handles:
            raise RuntimeError(
                f"the engine is on GPU {uuid} and the learner on {', '.join(handles)}: CUDA IPC is "
                "for one GPU; resources.cuda_ipc=false sends weights through the host's memory"
            )
        arguments = list(handles[uuid])
        arguments[_FIELDS.index("storage_device")] = index
        try:
            self._packed_importer.rebuild(arguments)
        except RuntimeError as error:
            raise RuntimeError(
                "the learner's buffer of weights cannot be mapped over CUDA IPC: "
                f"{error}; resources.cuda_ipc=false sends weights through the host's memory"
            ) from error

    def start_weight_update(self) -> None:
        """Open a layerwise reload."""
        forget_broken_update(self.model, self.model_config)
        super().start_weight_update()
