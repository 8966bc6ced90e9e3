"""Run by test_host_gpu.py: what a GPU refuses, the host's GPU refuses, too, and it computes."""

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

CPU, GPU = (torch.arange(6.0, device=device) for device in ("cpu", "cuda"))
MIXED = {
    "sum": lambda: GPU + CPU,
    "output": lambda: torch.add(GPU, GPU, out=torch.empty(6)),
    "product": lambda: torch.nn.functional.linear(GPU[None], CPU[None]),
    "choice": lambda: torch.where(CPU > 2, GPU, GPU),
    "rows": lambda: GPU.index_select(0, torch.tensor([1])),
    "places": lambda: GPU.gather(0, torch.tensor([1])),
    "joined": lambda: torch.cat([GPU, CPU]),
    "in place": lambda: GPU.clone().mul_(CPU),
}
"""What takes tensors of two devices."""


def main():
    for name, mixed in MIXED.items():
        with pytest.raises(RuntimeError, match=r"same device|cpu"):
            print(name, mixed())
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        GPU.numpy()
    assert torch.empty(4, device="cuda").isnan().all(), "what nobody wrote to is no zeros"
    assert torch.equal((GPU[torch.tensor([4, 1])] * torch.tensor(2.0)).cpu(), CPU[[4, 1]] * 2)

    weight = torch.arange(12.0, device="cuda").view(6, 2).requires_grad_()
    (GPU @ weight).square().sum().backward()
    assert torch.equal(weight.grad.cpu(), 2 * CPU[:, None] * (CPU @ weight.detach().cpu()))
    seen = GPU.view(2, 3).t()
    seen.add_(1)
    assert GPU.tolist() == [1, 2, 3, 4, 5, 6], "a view is the same memory"

    q = torch.randn(5, 2, 8, device="cuda")
    ends = torch.tensor([0, 2, 5], dtype=torch.int32, device="cuda")
    with pytest.raises(AssertionError, match="only 16 bits"):
        varlen_attn(q, q, q, ends, ends, 3, 3)
    half = q.bfloat16()
    assert varlen_attn(half, half, half, ends, ends, 3, 3, window_size=(-1, 0)).is_cuda


if __name__ == "__main__":
    main()
