"""What vLLM's NCCL backend lacks: ways out of a transfer that broke off."""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from rollout.reloading import forget_broken_update


class NcclWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives as vLLM does, also after an update that broke off."""

    def start_weight_update(self) -> None:
        """Open a layerwise reload."""
        forget_broken_update(self.model, self.model_config)
        super().start_weight_update()


def break_off(sender: Any) -> None:
    """Let a sender come to its end although an engine receives nothing any more.

    It waits in a CUDA stream for a broadcast that ends with the group alone. Engines that wait for
    the rest of it are not told by NCCL, unless the network tells them.

    Args:
        sender: vLLM's `NCCLTrainerWeightTransferEngine`; another thread sends with it.
    """
    group = sender.model_update_group
    if group is None or group.disabled:
        return
    # First: `group.destroy` does so last, when the sender has gone on to the next broadcast.
    group.disabled = True
    with torch.accelerator.device_index(group.device.index):
        group.nccl.ncclCommAbort(group.comm)
