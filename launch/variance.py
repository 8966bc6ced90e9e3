"""What each thinning rule adds to the variance, exactly: `python -m launch.variance MODEL TASK`.

Samples batches of groups from a model, scores them with the task's reward and takes the gradient of
every response over all parameters. With G_i the norm of response i's part of the batch's gradient
and q_i its probability to be kept independently of the others, thinning adds

    sum_i G_i^2 (1 / q_i - 1)    reported over    sum_i G_i^2,

sums over the usable responses whose advantage is not 0. Budgets are shares of their tokens. The
oracle knows G and is what no proxy can beat. Systematic sampling, which training uses, has the same
q and by negative correlation usually less variance.

PODS and D3S undo no probability: given the batch they add bias, not variance. For them the squared
distance of the batch's gradient from the full one is reported over the same sum: as it is, and
after the best common factor, which a learning rate could make up for. The variance of the rules
above averages out over batches; a bias stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from cost.types import BoolArray, FloatArray
from launch.program import UserError, build, run_program
from launch.record.summary import write_json
from launch.record.text import number_text
from launch.run.inputs import load_prompts, load_tokenizer, resolve_model
from launch.study.variance.measurement import measure_batch, summarise
from launch.study.variance.rules import AGGREGATIONS, FLOOR, group_responses

REWARDS: dict[str, tuple[str, ...]] = {
    "chain": ("+reward=chain",),
    "reasoning_gym_arithmetic": ("+reward=reasoning_gym", "reward.extract=last_number"),
    "reasoning_gym": ("+reward=reasoning_gym",),
    "jsonl": ("+reward=math",),
}
"""The reward of every task whose name begins so; the first that fits."""
BIAS_ROWS = {
    "squared_bias": "squared bias",
    "squared_bias_scaled": "best scale",
    "token_share": "tokens",
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole measurement that the command line describes."""
    model_path = resolve_model(arguments.model)
    composed = compose_task(arguments.task, arguments.overrides)
    task, reward = build(composed.task), build(composed.reward)
    tokenizer = load_tokenizer(model_path)
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    room = settings.get("max_position_embeddings", arguments.max_tokens + 4096)
    prompts = load_prompts(task, tokenizer, reward, room - arguments.max_tokens)
    if len(prompts) < arguments.prompts:
        raise UserError(
            f"--prompts must not exceed the {len(prompts)} prompts of the task, "
            f"got {arguments.prompts}"
        )
    from learner.probe_policy import ProbePolicy

    policy = ProbePolicy(
        model_path, temperature=arguments.temperature, stop_token_ids=[tokenizer.eos_token_id]
    )
    results, num_responses, num_usable, tokens = [], 0, 0, 0
    pass_rates = []
    for batch in range(arguments.batches):
        rng = np.random.default_rng([arguments.seed, batch])
        chosen = [prompts[i] for i in rng.choice(len(prompts), arguments.prompts, replace=False)]
        token_ids = [prompt.token_ids for prompt in chosen]
        seed = int(rng.integers(2**31))
        sampled = policy.sample(
            token_ids,
            num_samples=arguments.group_size,
            max_tokens=arguments.max_tokens,
            seed=seed,
        )
        items = [
            (prompt.text, tokenizer.decode(response, skip_special_tokens=True), prompt.answer)
            for prompt, group in zip(chosen, sampled, strict=True)
            for response in group
        ]
        rewards, usable = asyncio.run(score_rewards(reward, items))
        scores = [
            policy.token_scores(prompt, response)
            for prompt, group in zip(token_ids, sampled, strict=True)
            for response in group
        ]
        responses = group_responses(rewards, usable, arguments.group_size, scores)
        results.append(
            measure_batch(
                policy,
                token_ids,
                sampled,
                scores,
                responses,
                aggregations=arguments.aggregation,
                budgets=arguments.budgets,
                biased=not arguments.unbiased_only,
                seed=seed,
            )
        )
        num_responses += len(rewards)
        num_usable += int(usable.sum())
        tokens += int(responses.lengths.sum())
        pass_rates.append(float(np.mean(rewards[usable] >= 1)) if usable.any() else math.nan)
        print(f"batch {batch + 1} of {arguments.batches}", flush=True)
    num_with_advantage = sum(int(r.responses.with_gradient.sum()) for r in results)
    if num_with_advantage == 0:
        raise UserError(
            "task: no group of the batches has different rewards, so there is no gradient to "
            f"measure; take another task, model or more prompts, got {arguments.task!r}"
        )
    return {
        "model": arguments.model,
        "task": arguments.task,
        "parameters": policy.num_parameters,
        "batches": arguments.batches,
        "responses": num_responses,
        "usable_responses": num_usable,
        "responses_with_advantage": num_with_advantage,
        "mean_length_tokens": tokens / num_responses,
        "pass_rate": float(np.mean(pass_rates)),
        "temperature": arguments.temperature,
        "floor": FLOOR,
    } | summarise(results, arguments.aggregation, arguments.budgets)


async def score_rewards(
    reward: Any, items: Sequence[tuple[str, str, str]]
) -> tuple[FloatArray, BoolArray]:
    """Return rewards [M], NaN where scoring failed, and whether they are usable [M]."""
    from rollout.rewards.pool import RewardPool

    pool = RewardPool(reward)
    try:
        await pool.start()
        scored = await pool.score(items)
    finally:
        pool.close()
    rewards = np.array([math.nan if s.score is None else s.score.reward for s in scored])
    return rewards, np.isfinite(rewards)


def compose_task(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the task of conf/task/NAME.yaml and its reward.

    Raises:
        UserError: If no reward is known for the task, or hydra refuses.
    """
    rewards = next((REWARDS[key] for key in REWARDS if name.startswith(key)), ())
    if any(override.lstrip("+").startswith("reward=") for override in overrides):
        rewards = ()
    elif not rewards:
        raise UserError(f"task: no reward is known for it, add +reward=NAME, got {name!r}")
    with initialize_config_module("conf", version_base="1.3"):
        try:
            # Rewards of generated tasks take the name of the generator from the held-out task.
            return compose(
                overrides=[f"+task={name}", f"+task@held_out={name}", *rewards, *overrides]
            )
        except HydraException as error:
            raise UserError(" ".join(str(error).split())) from error


def print_tables(report: Mapping[str, Any]) -> None:
    """Print one table for the unbiased rules and one for the biased."""
    console = Console()
    console.print(
        f"{report['model']} on {report['task']}: {report['responses']} responses, "
        f"{report['responses_with_advantage']} with an advantage, mean length "
        f"{report['mean_length_tokens']:.0f} tokens, pass rate {report['pass_rate']:.2f}"
    )
    for name, fit in report["norm_fit"].items():
        console.print(
            f"|g| of the summed log-probability ~ {name}^{fit['exponent']:.2f}, "
            f"r {fit['correlation']:.2f}, residual deviation {fit['residual_deviation']:.2f}"
        )
    if report["fitted_exponents"]:
        exponents = report["fitted_exponents"]
        console.print(
            f"|g| ~ surprise^{exponents['surprise']:.2f} length^{exponents['length']:.2f} together;"
            " each batch is judged with exponents fitted to the others"
        )
    first = next(iter(report["added_variance"].values()))
    budgets = list(next(iter(first.values())))
    console.print()
    console.print("Added variance over the full batch's second moment, by budget")
    added = Table()
    added.add_column("rule for q", no_wrap=True)
    for aggregation in report["added_variance"]:
        added.add_column(f"{AGGREGATIONS[aggregation]}\n{' / '.join(budgets)}", no_wrap=True)
    for rule in first:
        added.add_row(
            rule,
            *(
                _figures(rules[rule][budget]["added_variance"] for budget in budgets)
                for rules in report["added_variance"].values()
            ),
        )
    console.print(added)
    if not report["biased"]:
        return
    console.print()
    console.print("Biased by design: over the same second moment, at the same budgets")
    biased = Table()
    for name in ("rule", "", *(AGGREGATIONS[aggregation] for aggregation in report["biased"])):
        biased.add_column(name, no_wrap=True)
    for rule in next(iter(report["biased"].values())):
        for row, (key, name) in enumerate(BIAS_ROWS.items()):
            biased.add_row(
                "" if row else rule,
                name,
                *(
                    _figures(rules[rule][budget][key] for budget in budgets)
                    for rules in report["biased"].values()
                ),
                end_section=row == len(BIAS_ROWS) - 1,
            )
    console.print(biased)


def _figures(values: Iterable[float]) -> str:
    return " / ".join(number_text(value, 2) for value in values)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _group_size(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {text}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m launch.variance", description="Exact added variance of every thinning rule."
    )
    result.add_argument("model", nargs="?", default="rollout/tasks/chain_model")
    result.add_argument("task", nargs="?", default="chain", help="a name in conf/task")
    result.add_argument("overrides", nargs="*", help="such as task.path=data.jsonl +reward=math")
    result.add_argument(
        "--aggregation", nargs="+", choices=list(AGGREGATIONS), default=list(AGGREGATIONS)
    )
    result.add_argument("--budgets", nargs="+", type=_share, default=[0.3, 0.5, 0.7])
    result.add_argument("--batches", type=_count, default=6)
    result.add_argument("--prompts", type=_count, default=16, help="groups in a batch")
    result.add_argument("--group-size", type=_group_size, default=8)
    result.add_argument("--max-tokens", type=_count, default=256)
    result.add_argument("--temperature", type=_positive, default=1.0)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--json", type=Path, help="also write the figures here")
    result.add_argument(
        "--unbiased-only", action="store_true", help="leave PODS and D3S out, to save memory"
    )
    return result


def main() -> None:
    """Measure, print, write."""
    arguments = parser().parse_intermixed_args()
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"--json must be a file in a folder that exists, got {arguments.json}")
    report = measure(arguments)
    print_tables(report)
    if arguments.json is not None:
        write_json(arguments.json, report)


if __name__ == "__main__":
    run_program(main)
