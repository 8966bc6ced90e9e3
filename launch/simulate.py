"""Scale out on paper: `python -m launch.simulate profile=h100_7b accelerators=[64,512,4096]`.

    a study     profile -> scheduler, buffer and loop as in training -> one row per size
    a fit       fit=RUN_FOLDER out=conf/profile/NAME.yaml
    a check     check=RUN_FOLDER profile=NAME

Engines and learners only keep time, in simulated seconds; what draws, waits, selects and publishes
is the code that trains. The run folder holds `config.yaml` and `simulation.json`, of a check
`check.json`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from conf.programs import register
from conf.studies import SimulateConfig
from launch.program import build, prepare_run_dir, run_program, start
from launch.record.summary import write_json

WIDTH = 170
"""Columns of the tables: wide enough for all, also where the output goes to a file."""
register()


def fit(config: SimulateConfig, console: Console) -> None:
    """Fit a profile to the run that `config.fit` names."""
    from launch.study.simulation.profile_file import fit_profile

    assert config.fit is not None and config.out is not None
    found = fit_profile(config.fit, config.out)
    console.print(f"{config.out}: {found.source}")


def check(config: SimulateConfig, composed: DictConfig, console: Console) -> None:
    """Predict the run that `config.check` names."""
    from launch.study.simulation.check import TOLERANCE, compare, passes
    from launch.study.simulation.measured import MeasuredRun
    from launch.study.simulation.tables import check_table

    assert config.check is not None
    comparisons = compare(config.profile, MeasuredRun.read(config.check))
    folder = prepare_run_dir(Path(composed.run_dir), composed, "simulate")
    console.print(check_table(config.check, comparisons))
    within = passes(comparisons)
    console.print(f"step seconds are {'within' if within else 'NOT within'} {TOLERANCE:.0%}")
    write_json(
        folder / "check.json",
        {
            "run": config.check,
            "profile": config.profile.source,
            "within_tolerance": within,
            "comparisons": [asdict(c) | {"ratio": c.ratio} for c in comparisons],
        },
    )


def study(config: SimulateConfig, composed: DictConfig, console: Console) -> None:
    """Simulate every number of accelerators."""
    from launch.study.simulation.sizes import simulate_sizes
    from launch.study.simulation.tables import study_table

    began = time.monotonic()
    folder = prepare_run_dir(Path(composed.run_dir), composed, "simulate")
    rows = simulate_sizes(config)
    console.print(study_table(config.profile, rows, config.target_pass_rate))
    console.print(
        f"{config.num_steps} steps each, simulated in {time.monotonic() - began:.0f} s; "
        f"rows are in {folder / 'simulation.json'}"
    )
    write_json(
        folder / "simulation.json",
        {"profile": config.profile.source, "rows": [asdict(row) for row in rows]},
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="simulate")
def main(composed: DictConfig) -> None:
    """Fit, check or study, as configured."""

    def program() -> None:
        config: SimulateConfig = build(composed)
        console = Console(width=WIDTH)
        composed.run_dir = str(Path(config.run_dir).resolve())
        if config.fit is not None:
            fit(config, console)
        elif config.check is not None:
            check(config, composed, console)
        else:
            study(config, composed, console)

    run_program(program)


if __name__ == "__main__":
    start(main)
