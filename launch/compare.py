"""Compare arms at equal budget: `python -m launch.compare comparison=allocators`.

    arms x seeds -> runs; each: reset engines, learners, scheduler -> launch.train's run -> summary
    finished runs are never repeated; an interrupted one is set aside and run again

One system serves all runs: its engines stay up, the learner reloads the starting policy with a new
optimiser, and a new scheduler is made. Arms may differ in everything but task, model, reward and
engines. Every run keeps the folder of a training run, under RUN_DIR/ARM/seed-SEED.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from conf.schema import CompareConfig, register
from launch.comparison import comparison_json, rows, table
from launch.compose import UserError, build, one_line, run_program, start
from launch.summary import write_json
from launch.train import Inputs, TrainingRun, prepare

register()
SHARED = (
    "model",
    "task",
    "held_out",
    "reward",
    "environment",
    "rollout",
    "resources",
    "evaluation",
)
"""What all arms must have in common: the question asked, and what stays up between runs."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed."""

    arm: str
    seed: int
    composed: DictConfig
    run_dir: Path

    def summary(self) -> dict[str, Any] | None:
        """Return the finished run's summary; None if it has not finished."""
        path = self.run_dir / "summary.json"
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content if content.get("completed") else None


def plan_runs(config: CompareConfig) -> list[PlannedRun]:
    """Compose every run, seeds outermost, so that an early stop leaves whole comparisons.

    Raises:
        UserError: If an arm does not compose, or differs from the first in what must be shared.
    """
    folder = Path(config.run_dir).resolve()
    planned = []
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        for seed in config.seeds:
            for arm, overrides in config.arms.items():
                run_dir = folder / arm / f"seed-{seed}"
                own = [
                    f"name={arm}-{seed}",
                    f"seed={seed}",
                    f"run_dir={run_dir}",
                    f"loop.max_generated_tokens={config.max_generated_tokens}",
                    f"loop.num_steps={config.max_steps}",
                    "loop.save_final=false",
                    f"evaluation.before={str(arm == next(iter(config.arms))).lower()}",
                    "~tracker.console",
                ]
                try:
                    composed = compose("train", overrides=[*config.base, *overrides, *own])
                except Exception as error:
                    raise UserError(f"arms.{arm}: {one_line(error)}") from error
                planned.append(PlannedRun(arm, seed, composed, run_dir))
    _require_shared(planned)
    return planned


def _require_shared(planned: list[PlannedRun]) -> None:
    def shared(run: PlannedRun, key: str) -> Any:
        found: Any = OmegaConf.to_container(run.composed[key], resolve=False)
        if key == "evaluation":
            found.pop("before")
        return found

    for run in planned:
        for key in SHARED:
            first, own = shared(planned[0], key), shared(run, key)
            if first != own:
                raise UserError(
                    f"arms must share {key}, or their results mean nothing together: "
                    f"{planned[0].arm} has {first!r}, {run.arm} has {own!r}"
                )


def set_aside(run_dir: Path) -> None:
    """Rename what an interrupted run left, so that nothing is lost and the folder is free."""
    if run_dir.exists() and any(run_dir.iterdir()):
        count = 1
        while (aside := run_dir.with_name(f"{run_dir.name}.interrupted-{count}")).exists():
            count += 1
        run_dir.rename(aside)


def inputs_of(run: PlannedRun) -> Inputs:
    """Prepare a run's folder and inputs, as `launch.train` does."""
    return prepare(run.composed.copy())


async def compare(planned: list[PlannedRun]) -> None:
    """Run what has not finished, on one system."""
    from rich.console import Console

    from launch.progress import Startup
    from launch.system import System

    console = Console()
    left = [run for run in planned if run.summary() is None]
    system: System | None = None
    try:
        for number, run in enumerate(left, len(planned) - len(left) + 1):
            set_aside(run.run_dir)
            inputs, began = inputs_of(run), time.time()
            if system is None:
                system = await System.create(inputs.config, inputs.prompts, Startup())
            else:
                await system.reset(inputs.config, inputs.prompts)
            await TrainingRun(inputs, system, began=began, quiet=True).run(Startup(quiet=True))
            done = run.summary()
            assert done is not None
            console.print(
                f"{number}/{len(planned)} {run.arm} seed {run.seed}: "
                f"pass@1 {done['pass_rate_after']:.3f}, {done['num_steps']} steps, "
                f"{done['generated_tokens']:,} tokens generated, {done['trained_tokens']:,} "
                f"trained, {done['seconds']['total']:.0f} s"
            )
    finally:
        if system is not None:
            await system.close()


def results_of(planned: list[PlannedRun]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Collect the finished runs by arm and seed."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in planned:
        summary = run.summary()
        if summary is not None:
            found.setdefault(run.arm, {})[run.seed] = summary
    return found


def report(planned: list[PlannedRun], folder: Path, k: int) -> None:
    """Print the table and write `comparison.json`."""
    from rich.console import Console

    results = results_of(planned)
    found = rows(results, k)
    baseline = next(iter(results.values()))
    before = next((run for run in baseline.values() if run.get("pass_rate_before")), None)
    # Wide enough for every column, also where the output goes to a file.
    console = Console(width=150)
    console.print(table(found, before, k))
    console.print(
        "95% intervals over seeds, paired for differences, not corrected for the number of arms"
    )
    write_json(folder / "comparison.json", comparison_json(found, before))


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(composed: DictConfig) -> None:
    """Compare as configured."""

    def program() -> None:
        from launch.cluster import cluster

        config: CompareConfig = build(composed)
        folder = Path(config.run_dir).resolve()
        planned = plan_runs(config)
        # Everything that can be refused is refused before the first run.
        checked = [build(run.composed.copy()) for run in planned[: len(config.arms)]]
        folder.mkdir(parents=True, exist_ok=True)
        if any(run.summary() is None for run in planned):
            with cluster(checked[0].resources):
                asyncio.run(compare(planned))
        report(planned, folder, checked[0].evaluation.num_samples)

    run_program(program)


if __name__ == "__main__":
    start(main)
