"""One copy of a prompt for its responses in a row, against one for each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from launch.study.bench.contest import MOST_WORK, Contest, Setting, compete
from launch.study.bench.workload import Workload

ROW_TOKENS = 2048
LONG_PROMPT = Workload(
    num_responses=16, group_size=8, mean_tokens=64.0, sigma=0.0, prompt_tokens=(512, 512)
)
SHORT_PROMPT = replace(LONG_PROMPT, mean_tokens=256.0, prompt_tokens=(32, 32))


def bench_shared(
    setting: Setting,
    workload: Workload,
    *,
    repetitions: int,
    warm_ups: int,
    row_tokens: int = ROW_TOKENS,
) -> dict[str, Any]:
    """Shared prompts against repeated ones; `ratio` is repeated over shared."""
    workload = workload.within(setting.work, MOST_WORK)
    contest = Contest(workload, setting, max_tokens=row_tokens)
    rows = {
        name: contest.rows(row_tokens, shared_prefix=name == "shared")
        for name in ("shared", "repeated")
    }
    run = {name: partial(contest.packed, laid_out) for name, laid_out in rows.items()}
    return {
        **compete(run, repetitions=repetitions, warm_ups=warm_ups),
        "prompt_tokens": workload.prompt_tokens[0],
        "response_tokens": int(workload.mean_tokens),
        "group_size": workload.group_size,
        "num_responses": workload.num_responses,
        "row_tokens": row_tokens,
        "row_tokens_computed": {
            name: sum(len(row.token_ids) for row in laid_out) for name, laid_out in rows.items()
        },
    }
