"""Measure a policy on held-out prompts: `python -m launch.evaluate model.path=runs/.../policy`.

Sampled at temperature 1 (pass@1 and pass@k with standard errors over prompts) and greedy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from conf.schema import EvaluateConfig, register
from launch.compose import build, prepare_run_dir, run_program, start
from launch.inputs import check_context, load_prompts, load_tokenizer, resolve_model
from rollout.types import Prompt

if TYPE_CHECKING:
    from launch.summary import EvaluationResult

register()


async def run(config: EvaluateConfig, held_out: list[Prompt]) -> dict[str, EvaluationResult]:
    """Evaluate on a connected cluster."""
    from launch.cluster import reserve
    from launch.engines import evaluate, make_pool
    from launch.summary import evaluate_statistics

    placement = reserve(config.resources, learners=False)
    pool = make_pool(
        config=config.rollout,
        run=config,
        placement=placement,
        scheduler=None,
        receives_weights=False,
    )
    settings = config.evaluation
    try:
        await pool.start()
        sampled = await evaluate(
            pool,
            held_out,
            num_samples=settings.num_samples,
            temperature=settings.temperature,
            max_tokens=config.rollout.max_tokens,
        )
        result = {"sampled": evaluate_statistics(sampled, k=settings.num_samples)}
        if settings.greedy:
            greedy = await evaluate(
                pool,
                held_out,
                num_samples=1,
                temperature=0.0,
                max_tokens=config.rollout.max_tokens,
            )
            result["greedy"] = evaluate_statistics(greedy, k=1)
    finally:
        await pool.close()
        placement.release()
    return result


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Evaluate as configured; prints a table and writes `evaluation.json`."""

    def program() -> None:
        from launch.cluster import cluster
        from launch.progress import print_evaluation
        from launch.summary import evaluation_summary, write_json

        composed.model.path = resolve_model(composed.model.path)
        composed.run_dir = str(Path(composed.run_dir).resolve())
        config: EvaluateConfig = build(composed)
        check_context(config.model.path, config.model.max_model_len)
        tokenizer = load_tokenizer(config.model.path)
        held_out = load_prompts(
            config.held_out, tokenizer, config.reward, config.max_prompt_tokens, key="held_out"
        )
        run_dir = prepare_run_dir(Path(config.run_dir), composed, "evaluate")
        with cluster(config.resources):
            result = asyncio.run(run(config, held_out))
        write_json(run_dir / "evaluation.json", evaluation_summary(result))
        print_evaluation(evaluation_summary(result), run_dir)

    run_program(program)


if __name__ == "__main__":
    start(main)
