"""The whole measurement: sample batches, score them, take every gradient, add up."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.studies import VarianceConfig
from cost.types import BoolArray, FloatArray
from launch.cli.refusals import UserError
from launch.record.counter import Counter
from launch.run.inputs import load_prompts
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.variance.measurement import Batch, BatchResult, measure_batch, measure_heads
from launch.study.variance.rules import FLOOR, group_responses
from launch.study.variance.summary import summarise
from rollout.stopping import stopping_of
from rollout.types import Prompt

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, Tokens


def measure(config: VarianceConfig, task_name: str) -> dict[str, Any]:
    """Run the whole measurement.

    Args:
        config: What to measure.
        task_name: What the report calls the task.

    Raises:
        UserError: If the model or the task does not serve.
    """
    model_path = resolve_model(config.model.path)
    tokenizer = load_tokenizer(model_path)
    prompts = _prompts(config, model_path, tokenizer)
    from learner.probe_policy import ProbePolicy

    stopping = stopping_of(model_path, tokenizer)
    if stopping.strings:
        raise UserError(
            "model.path must end responses with tokens alone here; remove stop_strings from its "
            f"generation_config.json, got {list(stopping.strings)!r}"
        )
    policy = ProbePolicy(
        model_path, temperature=config.temperature, stop_token_ids=stopping.token_ids
    )
    text_of = partial(stopping.text, tokenizer)
    results = []
    size = config.num_prompts * config.group_size
    with Counter("gradients", config.num_batches * size, "responses") as counter:
        for batch in range(config.num_batches):
            counter.to(batch * size)
            results.append(_measure_one(config, policy, text_of, prompts, batch, counter))
    every = [result.responses for result in results]
    num_responses = sum(len(each.usable) for each in every)
    num_tokens = sum(int(each.lengths.sum()) for each in every)
    num_with_advantage = sum(int(each.with_gradient.sum()) for each in every)
    if num_with_advantage == 0:
        raise UserError(
            "task: no group of the batches has different rewards, so there is no gradient to "
            f"measure; take another task, model or more prompts, got {task_name!r}"
        )
    rewards = [each.rewards[each.usable] for each in every]
    pass_rates = [float(np.mean(found >= 1)) if len(found) else math.nan for found in rewards]
    return {
        "model": config.model.path,
        "task": task_name,
        "parameters": policy.num_parameters,
        "batches": config.num_batches,
        "responses": num_responses,
        "usable_responses": sum(int(each.usable.sum()) for each in every),
        "responses_with_advantage": num_with_advantage,
        "advantage_token_share": sum(int(e.lengths[e.with_gradient].sum()) for e in every)
        / num_tokens,
        "mean_length_tokens": num_tokens / num_responses,
        "pass_rate": float(np.mean(pass_rates)),
        "temperature": config.temperature,
        "floor": FLOOR,
        "layer": config.layer,
        "group_size": config.group_size,
    } | summarise(results, config.aggregations, config.budgets, config.group_size)


def _prompts(config: VarianceConfig, model_path: str, tokenizer: Any) -> list[Prompt]:
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    room = settings.get("max_position_embeddings", config.max_tokens + 4096)
    prompts = load_prompts(config.task, tokenizer, config.reward, room - config.max_tokens)
    if len(prompts) < config.num_prompts:
        raise UserError(
            f"num_prompts must not exceed the {len(prompts)} prompts of the task, "
            f"got {config.num_prompts}"
        )
    return prompts


def _measure_one(
    config: VarianceConfig,
    policy: ProbePolicy,
    text_of: Callable[[Tokens], str],
    prompts: Sequence[Prompt],
    batch: int,
    counter: Counter,
) -> BatchResult:
    rng = np.random.default_rng([config.seed, batch])
    chosen = [prompts[i] for i in rng.choice(len(prompts), config.num_prompts, replace=False)]
    token_ids = [prompt.token_ids for prompt in chosen]
    seed = int(rng.integers(2**31))
    sampled = policy.sample(
        token_ids, num_samples=config.group_size, max_tokens=config.max_tokens, seed=seed
    )
    items = [
        (prompt.text, text_of(response), prompt.answer)
        for prompt, group in zip(chosen, sampled, strict=True)
        for response in group
    ]
    rewards, usable = asyncio.run(score_rewards(config.reward, items))
    scores = [
        policy.token_scores(prompt, response)
        for prompt, group in zip(token_ids, sampled, strict=True)
        for response in group
    ]
    measured = Batch(token_ids, sampled, scores)
    responses = group_responses(rewards, usable, config.group_size, scores)

    def say(count: int) -> None:
        counter.to(batch * len(items) + count)

    heads = None if config.layer == "all" else measure_heads(policy, measured, responses, say)
    if heads is not None and config.layer == "lm_head":
        return BatchResult(responses, heads, {}, None)
    result = measure_batch(
        policy,
        measured,
        responses,
        aggregations=config.aggregations,
        budgets=config.budgets,
        biased=not config.unbiased_only,
        seed=seed,
        say=say,
    )
    return replace(result, head_norms=heads)


async def score_rewards(
    reward: Any, items: Sequence[tuple[str, str, str]]
) -> tuple[FloatArray, BoolArray]:
    """Return rewards [M], NaN where scoring failed, and whether they are usable [M].

    Raises:
        UserError: If scoring failed for more than half of the responses.
    """
    from rollout.rewards.pool import RewardPool

    pool = RewardPool(reward)
    try:
        await pool.start()
        scored = await pool.score(items)
    finally:
        pool.close()
    failed = [one for one in scored if one.score is None]
    if 2 * len(failed) > len(scored):
        raise UserError(
            "reward must give most responses a number, got none for "
            f"{len(failed)} of {len(scored)}; the first:\n{failed[0].error.strip()}"
        )
    rewards = np.array([math.nan if s.score is None else s.score.reward for s in scored])
    return rewards, np.isfinite(rewards)
