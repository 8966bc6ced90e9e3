"""What vLLM 0.32 needs around loading weights into a model that has some, layer by layer.

Learners that send over NCCL or CUDA IPC import this module too: vLLM's loaders wait for a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm.config import ModelConfig


def unpack_experts(model: torch.nn.Module) -> None:
    """Let the experts of a mixture be packed anew when weights have been loaded.

    vLLM packs them for its CPU kernels only where it builds a layer's kernel, which it does once:
    experts loaded later would be read as if packed. Without its kernel a layer builds one.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None  # type: ignore[union-attr]


def forget_broken_update(model: torch.nn.Module, model_config: ModelConfig) -> None:
    """Close an update that broke off; layers that it had begun get the weights before it back.

    vLLM leaves it open, and the next update would add to what such layers wait to be loaded with.
    """
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    infos = [get_layerwise_info(module) for module in model.modules()]
    if not any(info.can_load() for info in infos):
        return
    for info in infos:
        # Or what has come of a layer is loaded into it, with nothing in the place of the rest.
        info.loaded_weights.clear()
        info.load_numel = 0
    finalize_layerwise_reload(model, model_config)  # type: ignore[no-untyped-call]
