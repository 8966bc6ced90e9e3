"""vLLM's weight transfer over gloo, for CPUs, where vLLM has no backend, and for shared GPUs.

NCCL has no two ranks on one GPU, so where some engines share one with a learner, and there are
others, weights go through the host's memory as well.

GlooSender  ================= gloo broadcast, one bucket after the other ====> load
(learner rank 0; others gather)                       GlooWeightTransferEngine (each worker)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import ProcessGroupGloo
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rollout.gloo_group import TIMEOUT_SECONDS, Contents, Meeting, broadcast, join
from rollout.reloading import forget_broken_update, unpack_experts
from rollout.rendezvous import open_store


class GlooInitInfo(Meeting, WeightTransferInitInfo):
    """What an engine worker needs to join the group, as vLLM names it."""


class GlooUpdateInfo(Contents, WeightTransferUpdateInfo):
    """What a receiver needs to know of the tensors to come, as vLLM names it."""


def _received(group: ProcessGroupGloo, contents: Contents) -> Iterator[tuple[str, torch.Tensor]]:
    def tensors() -> Iterator[torch.Tensor]:
        for bucket in contents.buckets():
            buffer = bucket.buffer()
            broadcast(group, buffer)
            yield from bucket.unpacked(buffer)

    return zip(contents.names, tensors(), strict=True)


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
        self._group = join(store, rank + init_info.rank_offset, world_size, at)

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
