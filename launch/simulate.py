"""Scale out on paper: `python -m launch.simulate profile=h100_7b accelerators=[64,512,4096]`.

    a study     profile -> scheduler, buffer and loop as in training -> one row per size
    a fit       fit=RUN_FOLDER out=conf/profile/NAME.yaml
    a check     check=RUN_FOLDER profile=NAME
    a plan      plan=true accelerators=[N] profile=NAME     the best engines and learners

Engines and learners only keep time, in simulated seconds; what draws, waits, selects and publishes
is the code that trains. The run folder holds `config.yaml` and `simulation.json`, of a check
`check.json`, of a plan `plan.json`.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from conf.programs import register
from conf.studies import SimulateConfig
from launch.program import build, run_program, start

WIDTH = 210
"""Columns of the tables: wide enough for all, also where the output goes to a file."""
register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="simulate")
def main(composed: DictConfig) -> None:
    """Fit, check, plan or study, as configured."""

    def program() -> None:
        from launch.study.simulation.files import write_check, write_fit, write_plan, write_study

        config: SimulateConfig = build(composed)
        console = Console(width=WIDTH)
        composed.run_dir = str(Path(config.run_dir).resolve())
        if config.fit is not None:
            write_fit(config, console)
        elif config.check is not None:
            write_check(config, composed, console)
        elif config.plan:
            write_plan(config, composed, console)
        else:
            write_study(config, composed, console)

    run_program(program)


if __name__ == "__main__":
    start(main)
