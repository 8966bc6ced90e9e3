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
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from omegaconf import DictConfig

from conf.programs import register
from conf.studies import SimulateConfig
from launch.program import UserError, build, prepare_run_dir, run_program, start

if TYPE_CHECKING:
    from rich.table import Table

    from launch.study.simulation.check import Comparison
    from launch.study.simulation.profile import Profile
    from launch.study.simulation.study import Row

register()


def study(config: SimulateConfig) -> list[Row]:
    """Simulate every number of accelerators.

    Raises:
        UserError: If a number has no room for an engine.
    """
    from launch.study.simulation.study import Layout, row, simulate, split

    rows = []
    for count in config.accelerators:
        try:
            engines, learners, colocated = split(
                count, config.learner_share, config.profile.engine.accelerators
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        scheduler = config.scheduler
        if config.tickets_per_accelerator is not None:
            tickets = max(1, round(count * config.tickets_per_accelerator))
            scheduler = replace(scheduler, tickets_per_step=tickets)
        layout = Layout(
            num_engines=engines,
            num_learners=learners,
            num_accelerators=count,
            colocated=colocated,
            num_steps=config.num_steps,
            max_staleness=config.max_staleness,
            num_epochs=config.num_epochs,
            num_minibatches=config.num_minibatches,
            prefix_caching=config.prefix_caching,
            update_mode=config.update_mode,
            max_retries=config.max_retries,
            seed=config.seed,
        )
        # The first batches are drawn together; after one more step the pipeline is full.
        outcome = simulate(config.profile, scheduler, layout, warm_up=config.max_staleness + 1)
        rows.append(row(config.profile, scheduler, outcome, config.target_pass_rate))
    return rows


def study_table(profile: Profile, rows: Sequence[Row], target: float | None) -> Table:
    """Lay the rows out for people."""
    from rich.table import Table

    table = Table(title=f"{profile.accelerator}, {profile.source}")
    columns = [
        "accelerators", "engines + learners", "step s", "engines idle", "slots in use",
        "learners idle", "staleness mean, max", "tokens/s generated", "accelerator s/step",
        "trained tokens per accelerator s",
    ]  # fmt: skip
    if target is not None:
        columns += [f"steps to {target:g}", "hours", "accelerator hours"]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            f"{row.accelerators:,}",
            f"{row.engines:,} + {row.learners:,}",
            f"{row.step_seconds:.2f}",
            f"{row.engine_idle_share:.1%}",
            f"{row.engine_occupancy:.1%}",
            f"{row.learner_idle_share:.1%}",
            f"{row.staleness_mean:.2f}, {row.staleness_max:.0f}",
            f"{row.generated_tokens_per_second:,.0f}",
            f"{row.step_accelerator_seconds:,.0f}",
            f"{row.trained_tokens_per_accelerator_second:,.1f}",
        ]
        if target is not None:
            cells += [
                f"{row.steps_to_target:,.0f}",
                f"{row.hours_to_target:,.2f}",
                f"{row.accelerator_hours_to_target:,.1f}",
            ]
        table.add_row(*cells)
    return table


def check_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    """Lay a check out for people."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("", "measured", "predicted", "predicted / measured"):
        table.add_column(column, justify="left" if not column else "right")
    for found in comparisons:
        table.add_row(
            found.name, f"{found.measured:,.3f}", f"{found.predicted:,.3f}", f"{found.ratio:.3f}"
        )
    return table


def plain(value: Any) -> Any:
    """A plug as hydra builds it again: nested dicts with `_target_`."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        found = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | found
    return value


def fit_profile(folder: str, out: str) -> Profile:
    """Fit a profile to a real run and write it.

    Raises:
        UserError: If the run does not serve, or the file exists.
    """
    import numpy as np
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from launch.run.inputs import load_prompts, load_tokenizer, resolve_model
    from launch.study.simulation.fit import fit
    from launch.study.simulation.measured import MeasuredRun

    path = Path(out)
    if path.exists() or path.suffix != ".yaml":
        raise UserError(f"out must be a new file ending in .yaml, got {out!r}")
    run = MeasuredRun.read(folder)
    config = OmegaConf.create(run.config)
    tokenizer = load_tokenizer(resolve_model(config.model.path))
    room = config.model.max_model_len - config.rollout.max_tokens
    prompts = load_prompts(instantiate(config.task), tokenizer, instantiate(config.reward), room)
    profile = fit(run, np.array([len(prompt.token_ids) for prompt in prompts]))
    text = yaml.safe_dump(plain(profile), sort_keys=False, default_flow_style=None, width=98)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return profile


@hydra.main(version_base="1.3", config_path="../conf", config_name="simulate")
def main(composed: DictConfig) -> None:
    """Simulate as configured."""

    def program() -> None:
        from rich.console import Console

        from launch.record.summary import write_json

        began = time.monotonic()
        # Wide enough for every column, also where the output goes to a file.
        console = Console(width=170)
        config: SimulateConfig = build(composed)
        if config.fit is not None:
            assert config.out is not None
            found = fit_profile(config.fit, config.out)
            console.print(f"{config.out}: {found.source}")
            return
        composed.run_dir = str(Path(config.run_dir).resolve())
        folder = Path(composed.run_dir)
        if config.check is not None:
            from launch.study.simulation.check import TOLERANCE, check, passes
            from launch.study.simulation.measured import MeasuredRun

            comparisons = check(config.profile, MeasuredRun.read(config.check))
            prepare_run_dir(folder, composed, "simulate")
            console.print(check_table(config.check, comparisons))
            within = passes(comparisons)
            console.print(
                f"step seconds are {'within' if within else 'NOT within'} {TOLERANCE:.0%}"
            )
            write_json(
                folder / "check.json",
                {
                    "run": config.check,
                    "profile": config.profile.source,
                    "within_tolerance": within,
                    "comparisons": [asdict(c) | {"ratio": c.ratio} for c in comparisons],
                },
            )
            return
        prepare_run_dir(folder, composed, "simulate")
        rows = study(config)
        console.print(study_table(config.profile, rows, config.target_pass_rate))
        console.print(
            f"{config.num_steps} steps each, simulated in {time.monotonic() - began:.0f} s; "
            f"rows are in {folder / 'simulation.json'}"
        )
        write_json(
            folder / "simulation.json",
            {"profile": config.profile.source, "rows": [asdict(row) for row in rows]},
        )

    run_program(program)


if __name__ == "__main__":
    start(main)
