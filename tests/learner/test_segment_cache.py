"""A chunk's attention by the kernel for sequences, against the one that CPUs take."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface

from learner import segment_cache
from learner.attention import NAME, PIECES
from learner.segment_cache import SegmentCache, attend, caching
from learner.varlen import attend_sequences, obstacle
from tests.learner.test_varlen import kernel


def chunk(num_queries, num_keys):
    """The last queries of a segment, and its keys and values, which two heads of queries share."""
    torch.manual_seed(num_keys)
    sizes = (4, num_queries), (2, num_keys), (2, num_keys)
    return [
        torch.randn(1, heads, size, 8, dtype=torch.float64, requires_grad=True)
        for heads, size in sizes
    ]


def attended(tensors, **settings):
    out, weights = attend(SimpleNamespace(), *tensors, None, scaling=0.4, **settings)
    assert weights is None
    out.square().sum().backward()
    return [out, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (7, 7), (4, 11), (17, 23)])
def test_where_the_kernel_runs_it_sees_the_same(monkeypatch, num_queries, num_keys, window):
    expected = attended(chunk(num_queries, num_keys), sliding_window=window)
    calls = []

    def counted(*arguments, **settings):
        calls.append(settings["window_size"])
        return kernel(*arguments, **settings)

    monkeypatch.setattr(segment_cache, "obstacle", lambda *_: None)
    monkeypatch.setattr(
        segment_cache, "attend_sequences", partial(attend_sequences, kernel=counted)
    )
    found = attended(chunk(num_queries, num_keys), sliding_window=window)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-12)
    seen = window is not None and window < num_keys
    assert calls == [(window - 1 if seen else -1, 0)]
    # Capped scores are none of the kernel's, and it may be declined.
    attended(chunk(num_queries, num_keys), softcap=0.7)
    attended(chunk(num_queries, num_keys), varlen=False)
    assert len(calls) == 1


@pytest.mark.parametrize(("implementation", "taken"), [(NAME, True), (PIECES, False)])
def test_a_model_that_asks_for_pieces_gets_no_kernel(implementation, taken):
    decoder = torch.nn.Identity()
    config = SimpleNamespace(_attn_implementation=implementation)
    with caching(SimpleNamespace(config=config, get_decoder=lambda: decoder), SegmentCache(3)):
        chosen = AttentionInterface()[config._attn_implementation]
        assert getattr(chosen, "keywords", {}).get("varlen", True) == taken
    assert config._attn_implementation == implementation


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 100])
def test_the_gpus_kernel_does_the_same(window):
    torch.manual_seed(0)
    sizes = (4, 70), (2, 300), (2, 300)
    drawn = [torch.randn(1, heads, size, 64, device="cuda") for heads, size in sizes]
    if reason := obstacle(drawn[0].bfloat16(), drawn[2].bfloat16()):
        pytest.skip(reason)
    both = [
        attended([t.bfloat16().requires_grad_() for t in drawn], varlen=varlen,
                 sliding_window=window)
        for varlen in (True, False)
    ]  # fmt: skip
    for mine, reference in zip(*both, strict=True):
        assert (mine - reference).norm() <= 0.02 * reference.norm()
