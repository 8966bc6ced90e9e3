"""One call for all pieces: what the kernel is told, and what comes of it."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from learner.attention import PIECES, attend, layout_of, register
from learner.varlen import attend_sequences, obstacle, sequences_of
from tests.host_gpu.flash_attention import attend as attend_pieces
from tests.learner.gpus import gpu_tensors
from tests.learner.test_attention import ROW, inputs, seen_by

CPU = torch.device("cpu")
ALONE = [(3, []), (1, []), (6, [])]


def kernel(q, k, v, query_ends, key_ends, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """What `varlen_attn` is to do: [T, H, D], queries lined up with the last of their keys."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert enable_gqa
    assert longest_q == query_ends.diff().max()
    assert longest_k == key_ends.diff().max()
    ends = query_ends.tolist(), key_ends.tolist()
    return attend_pieces(q, k, v, ends, *window_size, scale=scale)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("row", [ROW, ALONE, [(2, [3, 3])]])
def test_output_and_gradient_are_those_of_the_masked_square(row, window):
    ours, positions = inputs(row)
    theirs, _ = inputs(row)
    layout = layout_of(positions[0])
    sequences = sequences_of(layout.sizes, layout.prefixes, CPU)
    out = attend_sequences(sequences, *ours, scaling=0.3, window=window, kernel=kernel)
    mask = seen_by(row) if window is None else seen_by(row, window)
    expected = scaled_dot_product_attention(
        *theirs, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    probe = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-12)


def test_keys_are_gathered_only_where_a_prefix_is_shared():
    shared = sequences_of([2, 1, 1], [None, 0, 0], CPU)
    assert shared.keys.tolist() == [0, 1, 0, 1, 2, 0, 1, 3]
    assert shared.query_ends.tolist() == [0, 2, 3, 4]
    assert shared.key_ends.tolist() == [0, 2, 5, 8]
    assert (shared.longest_queries, shared.longest_keys) == (2, 3)
    alone = sequences_of([2, 1], [None, None], CPU)
    assert alone.keys is None
    assert alone.key_ends.tolist() == alone.query_ends.tolist() == [0, 2, 3]


def test_cpus_attend_piece_by_piece_and_say_why():
    (q, k, v), positions = inputs(ROW)
    assert obstacle(q, v) == "it runs on NVIDIA GPUs, not on cpu"
    both = [
        attend(SimpleNamespace(), q, k, v, None, position_ids=positions, varlen=varlen)[0]
        for varlen in (True, False)
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("width", "value_width", "dtype", "capability", "reason"),
    [
        (64, 64, torch.bfloat16, (8, 0), None),
        (256, 256, torch.float16, (9, 0), None),
        (64, 64, torch.float32, (9, 0), "16 bits"),
        (64, 64, torch.float16, (7, 5), "8.0 or more"),
        (264, 264, torch.bfloat16, (9, 0), "256 dimensions"),
        (60, 60, torch.bfloat16, (9, 0), "multiple of 8"),
        # DeepSeek's latent attention has queries of 192 dimensions and values of 128.
        (192, 128, torch.bfloat16, (9, 0), "as wide as queries"),
    ],
)
def test_gpus_say_what_the_kernel_cannot_take(width, value_width, dtype, capability, reason):
    shapes = (1, 4, 10, width), (1, 4, 10, value_width)
    with gpu_tensors(*shapes, dtype=dtype, capability=capability) as (query, value):
        found = obstacle(query, value)
    assert found is None if reason is None else reason in found


def test_values_may_be_narrower_than_queries():
    (q, k, v), positions = inputs(ROW)
    out, _ = attend(SimpleNamespace(), q, k, v, None, position_ids=positions)
    narrow, _ = attend(SimpleNamespace(), q, k, v[..., :5], None, position_ids=positions)
    torch.testing.assert_close(narrow, out[..., :5], rtol=0, atol=1e-12)


def test_a_model_can_ask_for_pieces():
    from transformers import AttentionInterface

    assert register(varlen=False) == PIECES
    pieces = AttentionInterface()[PIECES]
    assert pieces.func is attend
    assert pieces.keywords == {"varlen": False}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("row", [ROW, ALONE, [(200, [300, 70]), (40, [9] * 20)]])
def test_the_gpus_kernel_does_the_same(row, window):
    found = []
    for varlen in (True, False):
        tensors, positions = inputs(row, dim=64, dtype=torch.float32)
        half = [t.detach().to("cuda", torch.bfloat16).requires_grad_() for t in tensors]
        if varlen and (reason := obstacle(half[0], half[2])):
            pytest.skip(reason)
        out, _ = attend(
            SimpleNamespace(), *half, None, position_ids=positions.cuda(), varlen=varlen,
            sliding_window=window,
        )  # fmt: skip
        out.float().square().sum().backward()
        found.append([out, *(t.grad for t in half)])
    for mine, reference in zip(*found, strict=True):
        assert (mine - reference).norm() <= 0.02 * reference.norm()
