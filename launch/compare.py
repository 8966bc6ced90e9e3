"""Compare arms at equal budget: `python -m launch.compare comparison=baselines`.

    arms x seeds -> runs; each: reset engines, learners, scheduler -> launch.train's run -> summary
    finished runs are never repeated; an interrupted one is set aside and run again

One system serves all runs: its engines stay up, the learner reloads the starting policy with a new
optimiser, and a new scheduler is made. Arms may differ in everything but task, model, reward and
engines. Every run keeps the folder of a training run, under RUN_DIR/ARM/seed-SEED; beside them lie
`comparison.yaml`, which says whose folder it is, and the results in `comparison.json` and
`comparison.html`. With `pooled=[FILE,...]` nothing is run: such files are read together.
"""

import asyncio
from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.programs import register
from launch.program import build, run_program, start
from launch.study.comparison.checks import check, write_plan
from launch.study.comparison.plan import compare_config
from launch.study.comparison.pooled import read, said
from launch.study.comparison.results import report

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(composed: DictConfig) -> None:
    """Compare as configured."""

    def program() -> None:
        config = compare_config(composed)
        if config.pooled:
            runs = read(config.pooled, list(config.arms))
            print("\n".join(said(runs, config.budget.axis)))
            return
        folder = Path(config.run_dir).resolve()
        planned = check(config, folder)
        write_plan(config, folder)
        if any(run.summary() is None for run in planned):
            from launch.run.cluster import cluster
            from launch.study.comparison.running import run_all

            with cluster(build(planned[0].composed.copy()).resources):
                asyncio.run(run_all(planned))
        report(config, planned, folder)

    run_program(program)


if __name__ == "__main__":
    start(main)
