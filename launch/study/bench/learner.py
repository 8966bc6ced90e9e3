"""The learner's benches: how one optimiser step is laid out and computed.

packing        packed rows against padded ones
shared_prefix  prompts computed once against repeated ones
logprobs       log-probabilities in chunks against all at once
plans          what the ranks' rows repeat, pad and wait for
"""

from __future__ import annotations

from typing import Any

import torch

from conf.schema import RunConfig
from launch.study.bench.contest import Setting
from launch.study.bench.logprobs import HEAD, HeadLoad, bench_logprobs
from launch.study.bench.packing import bench_packed
from launch.study.bench.plans import PLAN_ROW_TOKENS, PLANNED, plan_figures
from launch.study.bench.shared_prefix import LONG_PROMPT, SHORT_PROMPT, bench_shared
from launch.study.bench.throughput import device_name
from launch.study.bench.workload import Workload


def bench_learner(
    config: RunConfig,
    workload: Workload,
    *,
    repetitions: int,
    warm_ups: int,
    long_prompt: Workload = LONG_PROMPT,
    short_prompt: Workload = SHORT_PROMPT,
    head: HeadLoad = HEAD,
) -> dict[str, Any]:
    """Measure all pairs with `learner.num_threads` threads.

    Large models get fewer groups, see `Workload.within`, and fewer repetitions.
    """
    torch.set_num_threads(config.learner.num_threads)
    setting = Setting.of(config)
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    return {
        "packed": bench_packed(setting, workload, max_tokens=config.rollout.max_tokens, **counts),
        "shared_prefix": {
            "long_prompt": bench_shared(setting, long_prompt, **counts),
            "short_prompt": bench_shared(setting, short_prompt, **counts),
        },
        "logprobs": bench_logprobs(head, **counts),
        "plans": [
            plan_figures(batch, setting.work, row_tokens=PLAN_ROW_TOKENS, seed=config.seed)
            for batch in PLANNED
        ],
        "threads": torch.get_num_threads(),
        "device": device_name(),
        "dtype": config.model.dtype,
    }
