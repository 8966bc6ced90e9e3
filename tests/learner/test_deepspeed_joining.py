"""What DeepSpeed is told of a GPU, whose part of torch is a stand-in."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from learner.deepspeed_joining import join


@pytest.fixture
def accelerator(monkeypatch):
    """DeepSpeed's accelerator of a GPU, on a machine that has NVML's Python package."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.accelerator import cuda_accelerator

    def whole(_):
        return SimpleNamespace(free=80)

    nvml = SimpleNamespace(nvmlDeviceGetHandleByIndex=int, nvmlDeviceGetMemoryInfo=whole)
    monkeypatch.setattr(cuda_accelerator, "pynvml", nvml)
    found = object.__new__(cuda_accelerator.CUDA_Accelerator)
    monkeypatch.setattr(found, "current_device", lambda: 0, raising=False)
    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", lambda: found)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: None)
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", {}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return found


@pytest.mark.parametrize(("share", "free", "held", "left"), [
    (1.0, 60, 20, 60), (1.0, 30, 20, 30), (0.45, 40, 20, 16), (0.45, 10, 20, 10),
])  # fmt: skip
def test_a_gpu_may_have_a_name_and_this_process_a_share_of_it(
    monkeypatch, accelerator, share, free, held, left
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7f3c1a9e-1111-2222-3333-444455556666")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: share)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: held)
    with pytest.raises(ValueError, match="invalid literal for int"):
        accelerator.available_memory()
    join(timedelta(seconds=1))
    assert accelerator.available_memory() == left
