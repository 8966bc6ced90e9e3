"""What a simulation prints and leaves in its folder: a profile, a check, a plan or a study."""

import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from conf.studies import SimulateConfig
from launch.program import prepare_run_dir
from launch.record.json_file import write_json
from launch.study.simulation.check import TOLERANCE, compare, passes
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.plan import plan_sizes
from launch.study.simulation.profile_file import fit_profile
from launch.study.simulation.sizes import simulate_sizes
from launch.study.simulation.tables import check_table, plan_table, study_table


def write_fit(config: SimulateConfig, console: Console) -> None:
    """Fit a profile to the run that `config.fit` names and write it."""
    assert config.fit is not None and config.out is not None
    found = fit_profile(config.fit, config.out)
    console.print(f"{config.out}: {found.source}", markup=False)


def write_check(config: SimulateConfig, composed: DictConfig, console: Console) -> None:
    """Predict the run that `config.check` names; print and write how well."""
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


def write_plan(config: SimulateConfig, composed: DictConfig, console: Console) -> None:
    """Find the best splits of every number of accelerators; print and write them."""
    began = time.monotonic()
    folder = prepare_run_dir(Path(composed.run_dir), composed, "simulate")
    plans = plan_sizes(config)
    console.print(plan_table(config.profile, plans, config.target_pass_rate))
    console.print(
        f"A step that is thinned is noisier, too. {config.num_steps} steps each, simulated in "
        f"{time.monotonic() - began:.0f} s; plans are in {folder / 'plan.json'}",
        markup=False,
    )
    write_json(
        folder / "plan.json",
        {"profile": config.profile.source, "plans": [asdict(plan) for plan in plans]},
    )


def write_study(config: SimulateConfig, composed: DictConfig, console: Console) -> None:
    """Simulate every number of accelerators; print and write a row each."""
    began = time.monotonic()
    folder = prepare_run_dir(Path(composed.run_dir), composed, "simulate")
    rows = simulate_sizes(config)
    console.print(study_table(config.profile, rows, config.target_pass_rate))
    console.print(
        f"{config.num_steps} steps each, simulated in {time.monotonic() - began:.0f} s; "
        f"rows are in {folder / 'simulation.json'}",
        markup=False,
    )
    write_json(
        folder / "simulation.json",
        {"profile": config.profile.source, "rows": [asdict(row) for row in rows]},
    )
