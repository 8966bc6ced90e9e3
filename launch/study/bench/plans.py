"""What plans of a batch compute, and how evenly; nothing is learned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launch.study.bench.workload import Workload
from learner.batch import collate
from learner.batch_plan import MinibatchPlan, rank_balance
from learner.partition import TOKENS, Work, work_of_rows

PLAN_ROW_TOKENS = 4096
BATCH = Workload(num_responses=512, mean_tokens=300.0, prompt_tokens=(60, 400))
PLANNED = (BATCH, replace(BATCH, num_responses=96))
"""Of 64 groups, and of 12, which are fewer than two a rank on 8 ranks."""


def plan_figures(workload: Workload, work: Work, *, row_tokens: int, seed: int) -> dict[str, Any]:
    """What plans of a batch compute, for several numbers of ranks.

    Returns:
        Per number of ranks: `useful_share` of the computed tokens that none of the others repeats
        or pads; `rank_balance`, the mean over the largest work of a rank, and the same where ranks
        were given equal tokens; `step_efficiency`, the useful work over what all ranks wait for,
        and the most of it with groups that are never split, however long a row; and the rows of a
        rank. A copy of a prompt lowers `useful_share` and pays where it raises `step_efficiency`.
    """
    segments = workload.segments(vocabulary=100, max_tokens=row_tokens - 400, seed=seed)
    lengths = [len(segment.token_ids) for segment in segments]
    prompts = workload.prompts(segments)
    useful = sum(dict(prompts).values()) + sum(
        length - prompt for length, (_, prompt) in zip(lengths, prompts, strict=True)
    )

    def balance(plan: Sequence[Sequence[Sequence[int]]]) -> float:
        works = [work_of_rows(rows, lengths, prompts=prompts, work=work) for rows in plan]
        return rank_balance([[MinibatchPlan(num_groups=1, rows=(), work=w) for w in works]])

    groups = [
        range(start, min(start + workload.group_size, len(segments)))
        for start in range(0, len(segments), workload.group_size)
    ]
    group_works = [work_of_rows([group], lengths, prompts=prompts, work=work) for group in groups]
    found: dict[str, Any] = {}
    for num_ranks in (1, 2, 4, 8):
        began = time.monotonic()
        plan = workload.plan(segments, num_ranks, row_tokens, work)
        seconds = time.monotonic() - began
        rows = [
            collate([segments[item] for item in row], shared_prefix=True)
            for rank_rows in plan
            for row in rank_rows
        ]
        computed = sum(len(row.token_ids) for row in rows)
        most = max(work_of_rows(rank, lengths, prompts=prompts, work=work) for rank in plan)
        found[str(num_ranks)] = {
            "useful_share": useful / computed,
            "rank_balance": balance(plan),
            "rank_balance_by_tokens": balance(
                workload.plan(segments, num_ranks, row_tokens, TOKENS)
            ),
            "step_efficiency": sum(group_works) / (num_ranks * most),
            "step_efficiency_of_whole_groups": _evenness(group_works, num_ranks),
            "groups_per_rank": len(groups) / num_ranks,
            "rows_per_rank": len(plan[0]),
            "largest_row": max(len(row.token_ids) for row in rows),
            "seconds": seconds,
        }
    return {
        "num_groups": len(groups),
        "useful_tokens": useful,
        "repeated_tokens": sum(lengths),
        "by_ranks": found,
    }


def _evenness(works: Sequence[float], num_ranks: int) -> float:
    """Mean over largest work of a rank, the most work going first to the rank with the least."""
    loads = [0.0] * num_ranks
    for work in sorted(works, reverse=True):
        loads[loads.index(min(loads))] += work
    return sum(loads) / num_ranks / max(loads)
