"""Tokens and model FLOPs per second."""

import numpy as np
import pytest

from launch.study.bench.throughput import peak_flops, throughput
from learner.batch import Segment
from learner.partition import Work


def segment(prompt: int, response: int) -> Segment:
    total = prompt + response
    return Segment(
        token_ids=np.zeros(total, np.int64),
        loss_mask=np.arange(total) >= prompt,
        rollout_logprobs=np.zeros(total, np.float32),
        advantage=0.0,
        loss_weight=0.0,
        num_prompt_tokens=prompt,
    )


def test_a_step_costs_three_forward_passes() -> None:
    work = Work(token=10.0, loss_token=5.0, pair=2.0)
    found = throughput(
        [segment(3, 2), segment(4, 0)],
        work,
        {"packed": 2.0, "padded": 4.0},
        device="NVIDIA A100-SXM4-80GB",
        dtype="bfloat16",
    )
    # 9 tokens, 2 of them with the head; 15 pairs in the first sequence, 10 in the second.
    forward = 9 * 10 + 2 * 5 + (15 + 10) * 2
    assert found["tokens_per_second"] == {"packed": 4.5, "padded": 2.25}
    assert found["model_flops_per_second"] == {"packed": 1.5 * forward, "padded": 0.75 * forward}
    assert found["model_flops_utilisation"]["packed"] == pytest.approx(1.5 * forward / 312e12)


def test_a_peak_is_told_only_where_it_is_known() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "float16") == 756e12
    assert peak_flops("NVIDIA GB200", "bfloat16") == 2500e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "float32") is None
    assert peak_flops("cpu", "bfloat16") is None
