"""The whole study: sample, let plugs learn from visits, judge what they then believe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.prediction import NUM_VISITS, PredictConfig
from cost.draws.allocators.passes import Passes
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Estimates
from cost.prompts import Features, prompt_pool
from cost.types import BoolArray, FloatArray
from cost.worth.posterior import mixed_chance
from launch.cli.refusals import UserError
from launch.run.inputs import load_prompts
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.prediction.beliefs import (
    Belief,
    Truth,
    believe,
    cost_times_moment,
    cost_times_variance,
    mean_and_error,
    splits,
    truth,
)
from launch.study.prediction.collection import Collected, collected
from launch.study.prediction.readings import tables
from launch.study.variance.study import score_rewards
from rollout.stopping import stopping_of
from rollout.types import Prompt

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, Tokens

NUM_BINS = 8
"""Of chances that a calibration compares with what was seen, with as many prompts each."""


def measure(config: PredictConfig, task_name: str) -> dict[str, Any]:
    """Run the whole study.

    Args:
        config: What to sample and compare.
        task_name: What the report calls the task.

    Raises:
        UserError: If the model or the task does not serve.
    """
    model_path = resolve_model(config.model.path)
    tokenizer = load_tokenizer(model_path)
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    room = settings.get("max_position_embeddings", config.max_tokens + 4096)
    prompts = load_prompts(config.task, tokenizer, config.reward, room - config.max_tokens)
    stopping = stopping_of(model_path, tokenizer)

    def policy() -> ProbePolicy:
        from learner.probe_policy import ProbePolicy

        return ProbePolicy(
            model_path, temperature=config.temperature, stop_token_ids=stopping.token_ids
        )

    def rewards_of(sampled: Sequence[Sequence[Tokens]]) -> FloatArray:
        items = [
            (prompt.text, stopping.text(tokenizer, response), prompt.answer)
            for prompt, group in zip(prompts, sampled, strict=True)
            for response in group
        ]
        rewards, usable = asyncio.run(score_rewards(config.reward, items))
        # What could not be scored counts as wrong.
        return np.where(usable, rewards, 0.0).reshape(len(prompts), -1)

    data = collected(config, prompts, policy, rewards_of)
    return {
        "model": config.model.path,
        "task": task_name,
        "temperature": config.temperature,
        "prompts": len(prompts),
        "responses": int(data.rewards.size),
        "pass_rate": float(data.rewards.mean()),
        "gradients": config.gradients,
        "group_size": config.group_size,
        "floor": config.floor,
        "share": config.share,
        "splits": config.splits,
    } | judge(config, prompts, data)


def judge(config: PredictConfig, prompts: Sequence[Prompt], data: Collected) -> dict[str, Any]:
    """Hold beliefs against the responses that they do not know.

    Raises:
        UserError: If no group has an advantage.
    """
    dealt = splits(config, data)
    truths = [truth(config, data, split, number) for number, split in enumerate(dealt)]
    if not all(true.moments["plain"].any() for true in truths):
        raise UserError(
            "task must have prompts that are sometimes solved, for without advantages there is no "
            f"gradient; take another task, model or temperature, got {data.rewards.mean()!r} solved"
        )
    by_table = {
        name: _judge_table(config, data, table, dealt, truths)
        for name, table in tables(prompts, data).items()
    }
    return {"draws": _bounds(config, truths), "by_features": by_table}


def _judge_table(
    config: PredictConfig,
    data: Collected,
    table: Features | None,
    dealt: Sequence[Any],
    truths: Sequence[Truth],
) -> dict[str, Any]:
    sources = ["task"] * data.num_prompts
    pool = prompt_pool(data.prompt_tokens, sources, config.max_tokens, table)
    found: dict[str, Any] = {}
    for num_visits in range(NUM_VISITS + 1):
        judged = [
            _figures(config, data, *believe(config, data, pool, split, num_visits), true)
            for split, true in zip(dealt, truths, strict=True)
        ]
        figures = {}
        for key in judged[0]:
            value, error = mean_and_error(one[key] for one in judged)
            figures[key] = {"value": value, "standard_error": error}
        found[str(num_visits)] = figures
    return found


def _figures(
    config: PredictConfig, data: Collected, belief: Belief, judged: BoolArray, true: Truth
) -> dict[str, float]:
    rates = belief.pass_rates[judged]
    seen = true.mixed[judged]
    posterior = mixed_chance(*belief.posterior, config.group_size)[judged]
    at_mean = 1 - rates**config.group_size - (1 - rates) ** config.group_size
    figures = {
        "pass_rate_r2": r_squared(rates, true.pass_rates[judged], true.pass_rate_noise),
        "mixed_r2": r_squared(posterior, seen),
        "mixed_at_mean_r2": r_squared(at_mean, seen),
        "mixed_calibration": calibration_error(posterior, seen),
        "mixed_at_mean_calibration": calibration_error(at_mean, seen),
    }
    costs = config.price.of_drawing(data.prompt_tokens, belief.lengths, config.group_size)
    for name, worths in belief.worths.items():
        estimates = Estimates(belief.lengths, costs, belief.pass_rates, worths)
        drawn = _draw_figures(config, estimates, true, judged)
        figures |= {f"{name}/{key}": value for key, value in drawn.items()}
    return figures


def _draw_figures(
    config: PredictConfig, estimates: Estimates, true: Truth, judged: BoolArray
) -> dict[str, float]:
    """Judge the draws and the passes that follow from estimates of all prompts."""
    p = SquareRoot(floor=config.floor).allocate(estimates, None).probabilities
    in_pass = Passes(share=config.share, floor=config.floor).allocate(estimates, None)
    q = in_pass.probabilities / in_pass.probabilities.max()
    p, q, costs = p[judged], q[judged], true.costs[judged]
    figures = {"mixed_drawn": float(p @ true.mixed[judged] / p.sum())}
    for metric, of_all in true.moments.items():
        moments, squared_means = of_all[judged], true.squared_means[metric][judged]
        to_uniform = cost_times_moment(p, moments, costs)
        within = (moments - squared_means).sum() / moments.sum()
        figures[f"{metric}/draws"] = to_uniform
        figures[f"{metric}/draws_to_epoch"] = float(to_uniform / within)
        figures[f"{metric}/passes_to_epoch"] = cost_times_variance(q, moments, squared_means, costs)
    return figures


def _bounds(config: PredictConfig, truths: Sequence[Truth]) -> dict[str, Any]:
    """Return by metric what is V - B of V, and what draws reach that know V as it is judged by.

    The latter is too good to be true, for the V of so few responses are noise in part.
    """
    found: dict[str, Any] = {}
    for metric in truths[0].moments:
        within, oracle = [], []
        for true in truths:
            moments = true.moments[metric]
            estimates = Estimates(true.costs, true.costs, true.pass_rates, moments)
            p = SquareRoot(floor=config.floor).allocate(estimates, None).probabilities
            oracle.append(cost_times_moment(p, moments, true.costs))
            within.append(float(1 - true.squared_means[metric].sum() / moments.sum()))
        found[metric] = {
            "oracle": mean_and_error(oracle)[0],
            "variance_share": mean_and_error(within)[0],
        }
    return found


def r_squared(predicted: FloatArray, seen: FloatArray, noise: float = 0.0) -> float:
    """Return the share of the variance that is explained, beside what is noise of the seen.

    Args:
        predicted: [M]
        seen: [M]
        noise: Mean squared error of `seen`.
    """
    error, variance = float(((predicted - seen) ** 2).mean()) - noise, float(seen.var()) - noise
    return 1 - error / variance if variance > 0 else float("nan")


def calibration_error(predicted: FloatArray, seen: FloatArray) -> float:
    """Return the mean distance of chances and what was seen, over bins of about equal chances."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), min(NUM_BINS, len(predicted)))
    distances = [len(part) * abs(float((predicted - seen)[part].mean())) for part in bins]
    return sum(distances) / len(predicted)
