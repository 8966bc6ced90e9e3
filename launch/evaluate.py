"""Measure a policy on named sets of prompts: `python -m launch.evaluate runs/RUN`.

The policy, prompts and reward of a run, or of `model.path=DIR` and an experiment. The set
`held_out` comes with the configuration; add others by name:

    +evaluation_set@evaluation.sets.mine=dataset evaluation.sets.mine.task.path=questions.jsonl

Sampled at temperature 1 (avg@n and pass@k with 95% intervals over prompts) and greedy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from conf.programs import register
from launch.cli.measured import evaluation_of
from launch.program import run_program, start
from launch.run.inputs import prepare_evaluation, say_whose_code

UNMEASURED = "before the policy was measured"
register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Evaluate as configured; prints a table and writes `evaluation.json`."""

    def program() -> None:
        from launch.run.interruption import stopped, until_signal

        own = evaluation_of(composed, HydraConfig.get().overrides.task)
        say_whose_code(own)
        with stopped(UNMEASURED):
            config, sets = prepare_evaluation(own)
        # These load heavy packages, for which no refusal has to wait.
        from launch.record.evaluation import print_evaluation
        from launch.record.json_file import write_json
        from launch.record.notices import Unwritten
        from launch.record.run_folder import EVALUATION
        from launch.run.cluster import cluster
        from launch.run.measuring import evaluate
        from launch.run.rewards import RewardWatch

        with cluster(config.resources):
            found = asyncio.run(until_signal(evaluate(config, sets), UNMEASURED))
        run_dir = Path(config.run_dir)
        unwritten = Unwritten()
        with unwritten.noted(EVALUATION):
            write_json(run_dir / EVALUATION, found.to_json())
        print_evaluation(found, run_dir)
        RewardWatch(config.rollout).look_at(found, stop=True)
        unwritten.check("the table has the results")

    run_program(program)


if __name__ == "__main__":
    start(main, measures=True)
