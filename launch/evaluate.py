"""Measure a policy on named sets of prompts: `python -m launch.evaluate model.path=.../policy`.

The set `held_out` comes with the configuration; add others by name:

    +evaluation_set@evaluation.sets.mine=jsonl evaluation.sets.mine.task.path=questions.jsonl
    +evaluation_set@evaluation.sets.gsm8k=hub evaluation.sets.gsm8k.task.dataset=openai/gsm8k

Sampled at temperature 1 (avg@n and pass@k with 95% intervals over prompts) and greedy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from conf.programs import register
from conf.schema import EvaluateConfig
from launch.program import build, prepare_run_dir, run_program, start
from launch.run.inputs import check_context, load_tokenizer, resolve_model

if TYPE_CHECKING:
    from launch.run.evaluation import Evaluation, Sets

register()


async def run(config: EvaluateConfig, sets: Sets) -> Evaluation:
    """Evaluate on a connected cluster."""
    from launch.run.cluster import reserve
    from launch.run.engines import make_pool
    from launch.run.evaluation import measure

    placement = reserve(config.resources, learners=False)
    pool = make_pool(
        config=config.rollout,
        run=config,
        placement=placement,
        scheduler=None,
        receives_weights=False,
    )
    try:
        await pool.start()
        return await measure(
            pool,
            sets,
            config.evaluation,
            max_tokens=config.rollout.max_tokens,
            greedy=config.evaluation.greedy,
            version=lambda: 0,
        )
    finally:
        await pool.close()
        placement.release()


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Evaluate as configured; prints a table and writes `evaluation.json`."""

    def program() -> None:
        from rich.console import Console

        from launch.record.run_folder import EVALUATION
        from launch.record.summary import write_json
        from launch.run.cluster import cluster
        from launch.run.evaluation import load_sets, table

        composed.model.path = resolve_model(composed.model.path)
        composed.run_dir = str(Path(composed.run_dir).resolve())
        config: EvaluateConfig = build(composed)
        check_context(config.model.path, config.model.max_model_len)
        sets = load_sets(config, load_tokenizer(config.model.path))
        run_dir = prepare_run_dir(Path(config.run_dir), composed, "evaluate")
        with cluster(config.resources):
            found = asyncio.run(run(config, sets))
        write_json(run_dir / EVALUATION, found.to_json())
        console = Console()
        if not console.is_terminal:
            # Wide enough for every column, where the output goes to a file.
            console = Console(width=140)
        console.print(table(found))
        console.print(f"files: {run_dir}", markup=False, highlight=False, soft_wrap=True)

    run_program(program)


if __name__ == "__main__":
    start(main)
