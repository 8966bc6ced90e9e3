"""What vLLM's NCCL backend lacks: ways out of a join and of a transfer that broke off.

    all ranks meet at a store -> all enter NCCL's group at once

NCCL lets nobody out of a group that is not complete. vLLM lets ranks enter one by one.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
from vllm.distributed.weight_transfer import nccl_common
from vllm.distributed.weight_transfer.base import WeightSource
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
)
from vllm.utils.nccl import unpinned_nccl_env

from rollout.config import PACKED_BYTES
from rollout.reloading import forget_broken_update
from rollout.rendezvous import host_group, meet, open_store

if TYPE_CHECKING:
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

TIMEOUT_SECONDS = 120.0
"""Longest wait until all are there."""


@dataclass(kw_only=True)
class NcclInitInfo(NCCLWeightTransferInitInfo):
    """What an engine's worker needs to join; the group is that of `nccl_unique_id_b64`."""

    meeting_address: str
    meeting_port: int


def _enter(
    store: TCPStore, unique_id: bytes, rank: int, world_size: int, device: int
) -> PyNcclCommunicator:
    """Enter the group once all are there; a store that is given up ends the wait."""
    meet(store, rank, world_size, seconds=TIMEOUT_SECONDS)
    return nccl_common.uid_init_process_group(unique_id, rank, world_size, device)


def _new_group() -> bytes:
    """Return a name for a group, at whose maker NCCL's ranks find each other."""
    with unpinned_nccl_env():
        return bytes(NCCLLibrary().ncclGetUniqueId().internal)


class NcclWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives as vLLM does, also after an update that broke off."""

    init_info_cls = NcclInitInfo  # type: ignore[assignment]

    def init_transfer_engine(self, init_info: NcclInitInfo) -> None:  # type: ignore[override]
        """Join the learner's group at this worker's rank."""
        self.packed = init_info.packed
        self.packed_buffer_size_bytes = init_info.packed_buffer_size_bytes
        self.packed_num_buffers = init_info.packed_num_buffers
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        unique_id, world_size = init_info.nccl_unique_id_bytes, init_info.world_size
        assert unique_id is not None
        store = open_store(
            init_info.meeting_address,
            init_info.meeting_port,
            world_size,
            hosts=False,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
        )
        rank += init_info.rank_offset
        device = torch.accelerator.current_device_index()
        self.model_update_group = _enter(store, unique_id, rank, world_size, device)

    def start_weight_update(self) -> None:
        """Open a layerwise reload."""
        forget_broken_update(self.model, self.model_config)
        super().start_weight_update()


def nccl_settings(
    rank: int, master_address: str, master_port: int, world_size: int
) -> NCCLTrainerInitInfo:
    """Return what vLLM's sender is told at this rank; it tells the engines."""
    where = (master_address, master_port, world_size)
    return NCCLTrainerInitInfo(*where, rank=rank, packed_buffer_size_bytes=PACKED_BYTES)


class NcclTrainerWeightTransferEngine(NCCLTrainerWeightTransferEngine):
    """Sends as vLLM does, to engines that it has met."""

    @classmethod
    def trainer_init(
        cls,
        init_info: NCCLTrainerInitInfo,
        *,
        client: Any,
        source: WeightSource | None = None,
    ) -> Self:
        """Open the group together with the engines; see `TrainerWeightTransferEngine`.

        The address and port of `init_info` are where they meet.
        """
        engine = cls(
            client=client,
            source=source,  # type: ignore[arg-type]
            is_sender=init_info.is_sender,
            packed=init_info.packed,
            packed_buffer_size_bytes=init_info.packed_buffer_size_bytes,
            packed_num_buffers=init_info.packed_num_buffers,
        )
        if not engine.is_sender:
            return engine
        unique_id, world_size = _new_group(), init_info.world_size
        # Here: threads beside this one begin on the first device.
        device = torch.accelerator.current_device_index()
        payload = NcclInitInfo(
            rank_offset=1,
            world_size=world_size,
            nccl_unique_id_b64=base64.b64encode(unique_id).decode(),
            packed=init_info.packed,
            packed_buffer_size_bytes=init_info.packed_buffer_size_bytes,
            packed_num_buffers=init_info.packed_num_buffers,
            meeting_address=init_info.master_address,
            meeting_port=init_info.master_port,
        )
        engine.model_update_group = host_group(
            init_info.master_address,
            init_info.master_port,
            world_size,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
            ask=lambda: client.init_weight_transfer_engine(asdict(payload)),
            enter=lambda store: _enter(store, unique_id, 0, world_size, device),
        )
        return engine


def break_off(sender: Any) -> None:
    """Let a sender come to its end although an engine receives nothing any more.

    It waits in a CUDA stream for a broadcast that ends with the group alone. Engines that wait for
    the rest of it are not told by NCCL, unless the network tells them.

    Args:
        sender: A `NcclTrainerWeightTransferEngine`; another thread sends with it.
    """
    group = sender.model_update_group
    if group is None or group.disabled:
        return
    # First: `group.destroy` does so last, when the sender has gone on to the next broadcast.
    group.disabled = True
    with torch.accelerator.device_index(group.device.index):
        group.nccl.ncclCommAbort(group.comm)
