"""The learner's kernels agree with the plain ways, and the bench would see it if they did not."""

import pytest
import torch
from torch import nn

from launch.program import build
from launch.study.bench.kernels import _compared, _seen, bench_kernels
from launch.study.bench.rollout import _figures
from learner.attention import layout_of
from tests.composing import composed
from tests.learner.test_attention import ROW, positions_of, seen_by

COUNTS = {"repetitions": 1, "warm_ups": 0}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_both_kernels_agree_with_the_plain_ways(dtype):
    """Also to within float16's rounding, which gradients of a mean are too small for."""
    sizes = "learner.row_tokens=512", "model.max_model_len=512"
    config = build(composed("bench", *sizes, f"model.dtype={dtype}", "learner.zero_stage=1"))
    found = bench_kernels(config, **COUNTS)
    assert 400 < found["row_tokens"] <= 512
    assert set(found["attention"]["median_seconds"]) == {"square", "pieces"} | (
        {"varlen"} if "varlen" not in found["attention"] else set()
    )
    for part in ("attention", "logprobs"):
        assert found[part]["agrees"]
        assert 0 < max(found[part]["largest_relative_difference"].values()) < 2e-3


def test_another_result_does_not_agree():
    holder = nn.ParameterList([torch.ones(2)])
    steps = {"truth": lambda: [torch.ones(4)], "other": lambda: [torch.ones(4) * 1.1]}
    found = _compared(steps, holder, COUNTS, "bfloat16")
    assert not found["agrees"]
    assert 0.09 < found["largest_relative_difference"]["other"] < 0.11


def test_the_square_sees_what_the_row_says():
    assert torch.equal(_seen(layout_of(positions_of(ROW)), torch.device("cpu")), seen_by(ROW))


def test_rollouts_alone_have_no_ratio():
    rows = {"actor_path": [{"tokens": 6.0, "seconds": 2.0, "tokens_per_second": 3.0}]}
    found = _figures(rows, "skipped: the run takes all GPUs")
    assert found["median_tokens_per_second"] == {"actor_path": 3.0}
    assert found["llm"].startswith("skipped")
    assert "ratio" not in found
    rows["llm"] = [{"tokens": 6.0, "seconds": 1.0, "tokens_per_second": 6.0}]
    assert _figures(rows, None)["ratio"] == 0.5
