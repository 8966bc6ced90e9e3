"""The half of vLLM's NCCL backend in an engine worker, with what it lacks."""

from __future__ import annotations

from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from rollout.reloading import forget_broken_update


class NcclWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives as vLLM does, also after an update that broke off."""

    def start_weight_update(self) -> None:
        """Open a layerwise reload."""
        forget_broken_update(self.model, self.model_config)
        super().start_weight_update()
