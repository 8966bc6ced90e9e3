"""The bench's sides agree, on a model whose matrix is tied; nothing about speed."""

import json

import pytest
import torch

from launch.bench import load_config
from launch.study.bench.gradient_norms import bench_gradient_norms
from launch.study.bench.workload import Workload
from learner.gradient_norms import LAYERS


def test_packed_and_one_by_one_agree(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, vocab_size=61, max_position_embeddings=512,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    workload = Workload(num_responses=48, group_size=2, mean_tokens=9.0, prompt_tokens=(3, 5))
    run = load_config([f"model.path={tmp_path}", "rollout.max_tokens=32", "learner.row_tokens=512"])
    threads = torch.get_num_threads()
    try:
        result = bench_gradient_norms(run, workload, repetitions=2, warm_ups=0)
    finally:
        torch.set_num_threads(threads)
    assert result["norms_agree"]
    assert max(result["norm_relative_max_difference"].values()) <= 1e-5
    assert result["num_responses"] == 48 and result["num_rows"] >= 2
    for layer in LAYERS:
        assert result["one_by_one_over_packed"][layer]["ratio"] == pytest.approx(
            result["median_seconds"][f"{layer}_one_by_one"] / result["median_seconds"][layer]
        )
    assert json.loads(json.dumps(result)) == result
