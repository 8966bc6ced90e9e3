"""Which kernel torch is left to take, and that copies of shared heads compute the same."""

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from learner import grouped_heads
from learner.grouped_heads import attend_grouped
from tests.learner.gpus import gpu_tensors


def shapes(heads, kv_heads, width=64, value_width=64):
    return (1, heads, 3, width), (1, kv_heads, 7, width), (1, kv_heads, 7, value_width)


@pytest.mark.parametrize(
    ("dtype", "kv_heads", "value_width", "mask", "copied"),
    [
        (torch.bfloat16, 2, 64, None, False),
        (torch.bfloat16, 2, 64, "lower right", False),
        (torch.bfloat16, 2, 64, "written out", True),
        (torch.bfloat16, 2, 32, None, True),
        (torch.float32, 2, 64, None, True),
        (torch.float32, 2, 64, "lower right", True),
        (torch.float32, 4, 64, "written out", False),
    ],
)
def test_gpus_share_heads_only_where_flash_attention_takes_them(
    monkeypatch, dtype, kv_heads, value_width, mask, copied
):
    called = []
    monkeypatch.setattr(
        grouped_heads,
        "scaled_dot_product_attention",
        lambda q, k, v, **how: called.append((k.shape[1], v.shape[1], how["enable_gqa"])),
    )
    masks = {"lower right": causal_lower_right(3, 7), "written out": torch.zeros(3, 7)}
    with gpu_tensors(*shapes(4, kv_heads, value_width=value_width), dtype=dtype) as tensors:
        attend_grouped(*tensors, mask=masks.get(mask))
    expected = 4 if copied else kv_heads
    assert called == [(expected, expected, expected != 4)]


def test_copied_heads_have_the_same_output_and_gradient(monkeypatch):
    monkeypatch.setattr(grouped_heads, "_needs_copies", lambda *_: True)
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes(4, 2)]
    mask = torch.randn(3, 7, dtype=torch.float64)
    found = []
    for attended in (
        lambda *parts: attend_grouped(*parts, mask=mask, scaling=0.3),
        lambda *parts: scaled_dot_product_attention(
            *parts, attn_mask=mask, scale=0.3, enable_gqa=True
        ),
    ):
        parts = [tensor.clone().requires_grad_() for tensor in tensors]
        out = attended(*parts)
        out.square().sum().backward()
        found.append([out, *(part.grad for part in parts)])
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-12)
