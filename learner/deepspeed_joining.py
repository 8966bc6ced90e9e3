"""How a rank joins the others through DeepSpeed, and what DeepSpeed is told of its device."""

import os
from datetime import timedelta
from typing import Any

import torch


def join(deadline: timedelta) -> Any:
    """Join the other ranks, and return DeepSpeed's module.

    Args:
        deadline: Longest wait of ranks for each other.
    """
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    import deepspeed

    if on_gpu:
        # Its own way takes what CUDA_VISIBLE_DEVICES names for numbers, where it may be UUIDs, and
        # asks for the memory of the whole GPU, of which this process may have a part.
        deepspeed.accelerator.get_accelerator().available_memory = free_bytes
    # DeepSpeed compiles a shared-memory all-reduce at the first start on a machine (about a
    # minute). It only serves ranks on one host; gloo serves all, so no op is offered.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=deadline,
    )
    return deepspeed


def free_bytes(device: int | None = None) -> int:
    """Return the bytes of a GPU that this process may take yet, of its share of what is free."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(min(free, share * total - torch.cuda.memory_reserved(device)))
