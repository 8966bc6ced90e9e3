"""Attention over sequences of different lengths, as the kernel of GPUs does it (2307.08691).

It refuses what the kernel refuses, and computes in float32 what is rounded at the end.
"""

from itertools import pairwise
from threading import Thread

import torch
from torch.nn.functional import scaled_dot_product_attention

MOST_DIMENSIONS = 256


def register():
    """Give the GPU of `torch_cuda` the kernel; returns what must be kept for as long."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CUDA")
    library.impl("_flash_attention_backward", backward, "CUDA")
    return library


def checked(q, k, v, query_ends, key_ends, longest_q, longest_k, *, causal, left, right):
    """Return what pieces there are, and how far each query sees to both sides; -1 for all."""
    for tensor in (q, k, v):
        assert tensor.is_cuda
        assert tensor.dtype in (torch.bfloat16, torch.float16), "only 16 bits"
        assert tensor.ndim == 3
        assert tensor.stride(-1) == 1, "the last dimension must be contiguous"
        assert tensor.shape[-1] <= MOST_DIMENSIONS
        assert tensor.shape[-1] % 8 == 0
    ends = []
    for counted, longest, tokens in ((query_ends, longest_q, q), (key_ends, longest_k, k)):
        assert counted.is_cuda
        assert counted.dtype == torch.int32
        assert counted.is_contiguous()
        ends.append(counted.tolist())
        assert ends[-1][-1] == len(tokens)
        assert longest == max(b - a for a, b in pairwise(ends[-1]))
    assert len(k) == len(v)
    return ends, -1 if left is None else left, 0 if causal else -1 if right is None else right


def attend(q, k, v, ends, left, right, *, scale):
    """Attend piece by piece; the last query of a piece sees to its last key.

    Args:
        q: [T, H, D], any dtype.
        k: [T_k, H_kv, D]
        v: [T_k, H_kv, D]
        ends: Where pieces end among queries, and among keys; both lists begin with 0.
        left: How many keys a query sees before its own place; -1 for all.
        right: The same behind it.
        scale: Of the scores; None for one over the root of D.
    """
    out = []
    for (q0, q1), (k0, k1) in zip(*map(pairwise, ends), strict=True):
        place = torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0)
        column = torch.arange(k1 - k0)
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        if right >= 0:
            seen &= column <= place + right
        if left >= 0:
            seen &= column >= place - left
        one = (t[a:b].transpose(0, 1)[None] for t, a, b in ((q, q0, q1), (k, k0, k1), (v, k0, k1)))
        attended = scaled_dot_product_attention(*one, attn_mask=seen, scale=scale, enable_gqa=True)
        out.append(attended[0].transpose(0, 1))
    return torch.cat(out)


def forward(
    q, k, v, query_ends, key_ends, longest_q, longest_k, dropout, causal, debug, *,
    scale=None, window_size_left=None, window_size_right=None, **others,
):  # fmt: skip
    """See `torch.ops.aten._flash_attention_forward`."""
    assert not dropout
    assert not debug
    assert not any(value is not None for value in others.values()), others
    pieces = (q, k, v, query_ends, key_ends, longest_q, longest_k)
    seen = checked(*pieces, causal=causal, left=window_size_left, right=window_size_right)
    out = attend(*(t.cpu().float() for t in (q, k, v)), *seen, scale=scale)
    nothing = torch.empty(0, device="cuda")
    lse = torch.zeros(q.shape[1], len(q), device="cuda")
    return out.to(q.dtype).cuda(), lse, torch.zeros(2, device="cuda"), nothing, nothing.clone()


def backward(
    gradient, q, k, v, out, lse, query_ends, key_ends, longest_q, longest_k, dropout, causal, state,
    unused, *, scale=None, window_size_left=None, window_size_right=None,
):  # fmt: skip
    """See `torch.ops.aten._flash_attention_backward`."""
    pieces = (q, k, v, query_ends, key_ends, longest_q, longest_k)
    seen = checked(*pieces, causal=causal, left=window_size_left, right=window_size_right)
    inputs = [tensor.cpu().float() for tensor in (q, k, v)]
    above, gradients = gradient.cpu().float(), []

    def work():
        leaves = [tensor.requires_grad_() for tensor in inputs]
        attended = attend(*leaves, *seen, scale=scale)
        gradients.extend(torch.autograd.grad(attended, leaves, above))

    # In this thread nothing is recorded any more.
    thread = Thread(target=work)
    thread.start()
    thread.join()
    return tuple(each.to(q.dtype).cuda() for each in gradients)
