"""Attention by segments against the masked attention of a whole packed row."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from learner.attention import attend

SIZES = [3, 1, 6]


def inputs(heads=4, kv_heads=2, dim=8):
    generator = torch.Generator().manual_seed(0)
    total = sum(SIZES)
    q = torch.randn(1, heads, total, dim, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 1, kv_heads, total, dim, generator=generator, dtype=torch.float64)
    positions = torch.cat([torch.arange(size) for size in SIZES])[None]
    return [t.requires_grad_() for t in (q, k.clone(), v.clone())], positions


def masked(q, k, v, scaling):
    """The textbook way: one square, everything outside a segment's triangle forbidden."""
    segment = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    allowed = (segment[:, None] == segment[None]).tril()
    out = scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2)


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_output_and_gradient_are_those_of_the_masked_square(scaling):
    ours, positions = inputs()
    theirs, _ = inputs()
    out, weights = attend(SimpleNamespace(), *ours, None, scaling=scaling, position_ids=positions)
    expected = masked(*theirs, scaling)
    assert weights is None
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    probe = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_ids": None}, "position ids"),
        ({"attention_mask": torch.ones(1)}, "no mask"),
        ({"dropout": 0.1}, "dropout 0.1"),
        ({"sliding_window": 5}, "window of 5 tokens, got a segment of 6"),
    ],
)
def test_what_packed_rows_cannot_have_is_refused(changes, message):
    (q, k, v), positions = inputs()
    arguments = {"attention_mask": None, "position_ids": positions} | changes
    with pytest.raises(ValueError, match=message):
        attend(SimpleNamespace(), q, k, v, **arguments)
