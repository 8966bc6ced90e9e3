"""The learner: speed, memory and layout of an optimiser step.

short_prompts, long_prompts  a step in three layouts (`launch.study.bench.layouts`)
plans                        what the ranks' rows repeat, and how even they are
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from conf.schema import RunConfig
from launch.study.bench.layouts import bench_layouts
from launch.study.bench.throughput import device_name
from launch.study.bench.workload import Workload
from learner.batch import Segment, collate
from learner.batch_plan import MinibatchPlan, rank_balance
from learner.partition import Work, work_of_rows

SHORT_PROMPTS = Workload()
LONG_PROMPTS = Workload(num_responses=16, mean_tokens=64.0, sigma=0.0, prompt_tokens=(512, 512))
PLANNED = Workload(num_responses=512, mean_tokens=300.0, prompt_tokens=(60, 400))
PLAN_ROW_TOKENS = 4096
NUM_RANKS = (1, 2, 4, 8)


def bench_learner(
    config: RunConfig,
    *,
    repetitions: int,
    warm_ups: int,
    workloads: tuple[Workload, Workload] = (SHORT_PROMPTS, LONG_PROMPTS),
    planned: Workload = PLANNED,
) -> dict[str, Any]:
    """Measure with `learner.num_threads` threads.

    Large models get fewer groups, see `Workload.within`, and fewer repetitions.
    """
    torch.set_num_threads(config.learner.num_threads)
    short, long = (
        bench_layouts(config, workload, repetitions=repetitions, warm_ups=warm_ups)
        for workload in workloads
    )
    return {
        "short_prompts": short,
        "long_prompts": long,
        "plans": plan_figures(planned, Work.of_model(config.model.path), seed=config.seed),
        "threads": torch.get_num_threads(),
        "device": device_name(),
        "dtype": config.model.dtype,
    }


def plan_figures(
    workload: Workload, work: Work, *, seed: int, row_tokens: int = PLAN_ROW_TOKENS
) -> dict[str, dict[str, float]]:
    """Return what plans of a batch compute, for several numbers of ranks; nothing is learned.

    Returns:
        Per number of ranks the `useful_share` of the computed tokens, which repeats none of the
        others, and the `rank_balance`, mean over largest work of a rank.
    """
    longest = row_tokens - workload.prompt_tokens[1]
    segments = workload.segments(vocabulary=100, max_tokens=longest, seed=seed)
    prompts = workload.prompts(segments)
    lengths = [len(segment.token_ids) for segment in segments]
    useful = sum(dict(prompts).values()) + sum(int(s.loss_mask.sum()) for s in segments)
    found = {}
    for num_ranks in NUM_RANKS:
        plan = workload.plan(segments, num_ranks, row_tokens, work)
        works = [work_of_rows(rows, lengths, prompts=prompts, work=work) for rows in plan]
        found[str(num_ranks)] = {
            "useful_share": useful / _computed(plan, segments),
            "rank_balance": rank_balance([[MinibatchPlan(1, (), w) for w in works]]),
        }
    return found


def _computed(plan: Sequence[Sequence[Sequence[int]]], segments: Sequence[Segment]) -> int:
    return sum(
        len(collate([segments[item] for item in row], shared_prefix=True).token_ids)
        for rows in plan
        for row in rows
    )
