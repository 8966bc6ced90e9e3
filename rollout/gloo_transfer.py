"""vLLM's weight transfer over gloo, for CPUs, where vLLM has no backend, and for shared GPUs.

NCCL has no two ranks on one GPU, so where some engines share one with a learner, and there are
others, weights go through the host's memory as well.

GlooTrainerWeightTransferEngine ==== gloo broadcast, one bucket after the other ====> load
(learner rank 0; others gather)                       GlooWeightTransferEngine (each worker)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, Self

import torch
from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rollout.buckets import Bucket, cut
from rollout.reloading import forget_broken_update, unpack_experts
from rollout.rendezvous import host_group, meet, open_store, own_address

BACKEND = "gloo"
TIMEOUT_SECONDS = 120.0
"""Longest wait until all are there, and for one tensor."""
CONNECT_SECONDS = 30.0
"""Longest wait for those that are there to connect with each other."""


def _join(store: TCPStore, rank: int, world_size: int, master_address: str) -> ProcessGroupGloo:
    """Make the group once all are there; a store that is given up ends the wait."""
    meet(store, rank, world_size, seconds=TIMEOUT_SECONDS)
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = _devices(master_address)
    options._timeout = timedelta(seconds=CONNECT_SECONDS)
    group = ProcessGroupGloo(store, rank, world_size, options)
    group._set_default_timeout(timedelta(seconds=TIMEOUT_SECONDS))
    return group


def _devices(master_address: str) -> list[Any]:
    """What to listen on: GLOO_SOCKET_IFNAME's interfaces, else the one towards the host."""
    create: Any = ProcessGroupGloo.create_device
    if names := os.environ.get("GLOO_SOCKET_IFNAME", ""):
        return [create(interface=name) for name in names.split(",")]
    return [create(hostname=own_address(master_address))]


def _broadcast(group: ProcessGroupGloo, tensor: torch.Tensor) -> None:
    group.broadcast(tensor, 0).wait()  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """What an engine worker needs to join the transfer group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What a receiver needs to know of the tensors to come, in stream order."""

    names: list[str]
    dtype_names: list[str]
    """Names of torch's dtypes, such as "bfloat16"."""
    shapes: list[list[int]]
    """Full shapes, unpartitioned."""

    def buckets(self) -> list[Bucket]:
        """Return what they come in."""
        dtypes = (getattr(torch, name) for name in self.dtype_names)
        return cut([(dtype, tuple(s)) for dtype, s in zip(dtypes, self.shapes, strict=True)])


def _received(group: ProcessGroupGloo, info: GlooUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
    def tensors() -> Iterator[torch.Tensor]:
        for bucket in info.buckets():
            buffer = bucket.buffer()
            _broadcast(group, buffer)
            yield from bucket.unpacked(buffer)

    return zip(info.names, tensors(), strict=True)


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The half of the gloo backend in an engine worker, which receives."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: ProcessGroupGloo | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the learner's group at this worker's rank."""
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        at, world_size = init_info.master_address, init_info.world_size
        timeout = timedelta(seconds=TIMEOUT_SECONDS)
        store = open_store(at, init_info.master_port, world_size, hosts=False, timeout=timeout)
        self._group = _join(store, rank + init_info.rank_offset, world_size, at)

    def start_weight_update(self) -> None:
        """Open a layerwise reload: CPU kernels repack weights, so loading in place fails."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        forget_broken_update(self.model, self.model_config)
        if self.device.type == "cpu":
            unpack_experts(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive, without the base class's accelerator synchronisation on CPUs, which lack it."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive one bucket after the other, as the model loads them."""
        if self._group is None:
            raise RuntimeError("gloo weight transfer: init_transfer_engine has not been called")
        # All at once, as from disk: a model looks its parameters up anew in every call.
        self.model.load_weights(_received(self._group, update_info))  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """Close the layerwise reload."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)  # type: ignore[no-untyped-call]

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


def _declared(source: WeightSource, metadata: Sequence[ParamMeta]) -> Iterator[torch.Tensor]:
    """Yield what a source has; ValueError if it is not what was declared."""
    for (name, tensor), expected in zip(source, metadata, strict=True):
        found = (name, tensor.dtype, tuple(tensor.shape))
        if found != (declared := (expected.name, expected.dtype, tuple(expected.shape))):
            raise ValueError(
                "weight source: declared {} {} {}, got {} {} {}".format(*declared, *found)
            )
        yield tensor.detach()


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """What a learner needs to open the transfer group."""

    backend: ClassVar[str] = BACKEND

    master_address: str
    master_port: int
    world_size: int


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The half of the gloo backend in a learner: rank 0 sends, the others only help to gather."""

    init_info_cls = GlooTrainerInitInfo
    _group: ProcessGroupGloo | None = None

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: Any, source: WeightSource | None = None
    ) -> Self:
        """Open the group together with the engines; see `TrainerWeightTransferEngine`."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if not engine.is_sender:
            return engine
        payload = GlooInitInfo(
            master_address=init_info.master_address,
            master_port=init_info.master_port,
            rank_offset=1,
            world_size=init_info.world_size,
        )
        at, world_size = init_info.master_address, init_info.world_size
        engine._group = host_group(
            at,
            init_info.master_port,
            world_size,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
            ask=lambda: client.init_weight_transfer_engine(asdict(payload)),
            enter=lambda store: _join(store, 0, world_size, at),
        )
        return engine

    def send_weights(self) -> None:
        """Stream the source once to all engines; every learner rank must call it.

        Raises:
            ValueError: If the source yields another tensor than it declared.
        """
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        assert self._group is not None
        metadata = self.source.metadata()
        info = GlooUpdateInfo(
            names=[m.name for m in metadata],
            dtype_names=[str(m.dtype).removeprefix("torch.") for m in metadata],
            shapes=[list(m.shape) for m in metadata],
        )
        self.client.start_weight_update()
        side = ThreadPoolExecutor(max_workers=1)
        try:
            received = side.submit(self.client.update_weights, asdict(info))
            tensors = _declared(self.source, metadata)
            for bucket in info.buckets():
                _broadcast(self._group, bucket.packed(tensors))
            # To its end, where what was gathered last is let go of.
            deque(tensors, maxlen=0)
            received.result()
        finally:
            # After a failed broadcast the receiver never returns; joining it would hang here too.
            side.shutdown(wait=False)
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None
