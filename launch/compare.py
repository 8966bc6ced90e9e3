"""Compare arms at equal budget: `python -m launch.compare comparison=baselines`.

    arms x seeds -> runs; each: reset engines, learners, scheduler -> launch.train's run -> summary
    finished runs are never repeated; an interrupted one is set aside and run again

One system serves all runs: its engines stay up, the learner reloads the starting policy with a new
optimiser, and a new scheduler is made. Arms may differ in everything but task, model, reward and
engines. Every run keeps the folder of a training run, under RUN_DIR/ARM/seed-SEED; beside them lie
`comparison.yaml`, which says whose folder it is, and the results in `comparison.json` and
`comparison.html`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from conf.programs import BudgetConfig, CompareConfig, register
from launch.program import UserError, build, one_line, run_program, start
from launch.record.run_folder import (
    SUMMARY,
    metric_columns,
    read_config,
    read_steps,
    read_summary,
    refused,
)
from launch.record.summary import write_json
from launch.record.tracking import LONGEST_TAG
from launch.run.inputs import resolve_model
from launch.study.comparison.curves import NEEDED as NEEDED_METRICS
from launch.study.comparison.curves import curve_of
from launch.study.comparison.findings import FinishedRun, comparison_json, find, sentences, table
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
NEEDED = (
    "pass_rate_after",
    "num_steps",
    "generated_tokens",
    "selectable_tokens",
    "trained_tokens",
)
"""What a finished run's summary must tell."""
PLAN = "comparison.yaml"
OWN_KEYS = ("name", "run_dir")
"""Keys of a run's configuration in which it may differ from what is asked for."""
MOST_DRAWN = 20
"""Batches that an allocator may draw at most to fill one; more than any here does."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed."""

    arm: str
    seed: int
    composed: DictConfig
    run_dir: Path

    def summary(self) -> dict[str, Any] | None:
        """Return the finished run's summary; None if it has not finished.

        Raises:
            UserError: If the file is damaged or of another version.
        """
        if not (self.run_dir / SUMMARY).exists():
            return None
        with _or_move_away():
            content = read_summary(self.run_dir)
        if not content.get("completed"):
            return None
        missing = [key for key in NEEDED if content.get(key) is None]
        if missing:
            raise refused(
                self.run_dir,
                f"{SUMMARY} has no {missing[0]}, so it is of another version; choose another name "
                "or run_dir",
            )
        return content


@contextmanager
def _or_move_away() -> Iterator[None]:
    """Offer another way out of what makes a run of a comparison unreadable."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}, or move the folder away to run it again") from error


def plan_runs(config: CompareConfig) -> list[PlannedRun]:
    """Compose every run, seeds outermost, so that an early stop leaves whole comparisons.

    Raises:
        UserError: If an arm does not compose, differs from the first in what must be shared, or if
            no arm can reach the budget.
    """
    folder = Path(config.run_dir).resolve()
    arms = {}
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        for arm, overrides in config.arms.items():
            own = [
                *budget_overrides(config.budget, config.max_steps),
                "loop.save_final=false",
                f"evaluation.before={str(arm == next(iter(config.arms))).lower()}",
                "~tracker.console",
            ]
            try:
                arms[arm] = compose("train", overrides=[*config.base, *overrides, *own])
            except Exception as error:
                raise UserError(f"arms.{arm}: {one_line(error)}") from error
    planned = []
    for seed in config.seeds:
        for arm, of_arm in arms.items():
            run_dir = folder / arm / f"seed-{seed}"
            composed = of_arm.copy()
            composed.name, composed.seed, composed.run_dir = f"{arm}-{seed}", seed, str(run_dir)
            _group(composed, config.name, arm)
            planned.append(PlannedRun(arm, seed, composed, run_dir))
    _require_shared(planned)
    _require_evaluated(planned)
    _require_seconds_of_its_own(config, planned)
    return planned


def _group(composed: DictConfig, name: str, arm: str) -> None:
    """Let a tracker that knows groups show the runs of a comparison together."""
    for tracker in composed.tracker.values():
        if "group" in tracker and "tags" in tracker:
            tracker.group = tracker.group or name
            tags = (arm, f"seed-{composed.seed}")
            tracker.tags = [*tracker.tags, *(tag[:LONGEST_TAG] for tag in tags)]


def budget_overrides(budget: BudgetConfig, max_steps: int) -> list[str]:
    """Return the overrides that end a run with its budget."""
    bounds: dict[str, float | int | str] = {
        "max_generated_tokens": "null",
        "max_trained_tokens": "null",
        "max_seconds": "null",
        "num_steps": max_steps,
    }
    if budget.axis == "seconds":
        bounds["max_seconds"] = budget.amount
    else:
        key = "num_steps" if budget.axis == "steps" else f"max_{budget.axis}"
        bounds[key] = int(budget.amount)
    return [f"loop.{key}={value}" for key, value in bounds.items()]


def _require_shared(planned: list[PlannedRun]) -> None:
    def shared(run: PlannedRun, key: str) -> Any:
        found: Any = OmegaConf.to_container(run.composed[key], resolve=False)
        if key == "evaluation":
            found.pop("before")
        return found

    def published(run: PlannedRun) -> str:
        lora = run.composed.learner.lora
        return f"adapters of rank {lora.rank}" if lora.publish == "adapters" else "weights"

    for run in planned:
        for key in SHARED:
            first, own = shared(planned[0], key), shared(run, key)
            if first != own:
                raise UserError(
                    f"arms must share {key}, or their results mean nothing together: "
                    f"{planned[0].arm} has {first!r}, {run.arm} has {own!r}"
                )
        first, own = published(planned[0]), published(run)
        if first != own:
            raise UserError(
                "arms must share learner.lora.publish, and with adapters learner.lora.rank, which "
                f"engines are started for: {planned[0].arm} has {first}, {run.arm} has {own}"
            )


def _require_evaluated(planned: list[PlannedRun]) -> None:
    if not planned[0].composed.evaluation.after:
        raise UserError("evaluation.after must be true: it is what arms are compared by, got False")


def _require_seconds_of_its_own(config: CompareConfig, planned: list[PlannedRun]) -> None:
    if config.budget.axis == "seconds" and planned[0].composed.evaluation.background:
        raise UserError(
            "evaluation.background must be false where budget.axis is seconds: evaluations would "
            "share the engines with training and so be paid from the budget, by each arm "
            "differently, got True"
        )


def require_reachable(config: CompareConfig, arms: Mapping[str, Any]) -> None:
    """Refuse a budget of tokens that no arm can spend in `max_steps` batches.

    Args:
        config: Of the comparison.
        arms: By arm its RunConfig.

    Raises:
        UserError: With what the arms could spend at most.
    """
    if config.budget.axis not in ("generated_tokens", "trained_tokens"):
        return
    most = 0
    for run in arms.values():
        step = run.responses_per_step * run.model.max_model_len
        trained = config.budget.axis == "trained_tokens"
        most = max(most, step * (run.learner.num_epochs if trained else MOST_DRAWN))
    if most * config.max_steps < config.budget.amount:
        raise UserError(
            f"budget.amount must be within reach of some arm: in max_steps = {config.max_steps} "
            f"batches none can spend more than {most * config.max_steps:,} {config.budget.axis}, "
            f"got {config.budget.amount:,.0f}"
        )


def require_own_folder(config: CompareConfig, folder: Path) -> None:
    """Refuse a folder that is not this comparison's; nothing in it is changed.

    Arms and seeds may be added or left out; what runs of one name have in common may not change.

    Raises:
        UserError: With what is there and what to change.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / PLAN).exists():
        raise UserError(
            f"run_dir must be new, empty or a comparison's, got {str(folder)!r}, which has no "
            f"{PLAN} and so is something else's or an older version's; choose another name or "
            "run_dir"
        )
    earlier: Any = OmegaConf.to_container(OmegaConf.load(folder / PLAN))
    now = plan_content(config)
    pairs = {key: (earlier.get(key), now[key]) for key in ("budget", "max_steps", "base")}
    pairs |= {
        f"arms.{arm}": (earlier["arms"][arm], overrides)
        for arm, overrides in now["arms"].items()
        if arm in earlier.get("arms", {})
    }
    for key, (there, asked) in pairs.items():
        if there != asked:
            raise UserError(
                f"{str(folder)!r} holds a comparison with another {key} ({there!r} there, "
                f"{asked!r} asked for); choose another name or run_dir"
            )


def plan_content(config: CompareConfig) -> dict[str, Any]:
    """Return what `comparison.yaml` says."""
    content = asdict(config)
    content.pop("run_dir")
    return content


def require_same_settings(run: PlannedRun) -> None:
    """Refuse a finished run that was made with other settings, or by another version.

    Raises:
        UserError: With the first setting that differs.
    """
    with _or_move_away():
        there = _flat(read_config(run.run_dir))
    composed = run.composed.copy()
    composed.model.path = resolve_model(composed.model.path)
    asked = _flat(OmegaConf.to_container(composed, resolve=True))
    for key in sorted(there.keys() | asked.keys()):
        if there.get(key, "nothing") != asked.get(key, "nothing"):
            raise UserError(
                f"{run.run_dir} was run with other settings or by another version: {key} is "
                f"{there.get(key, 'nothing')!r} there and {asked.get(key, 'nothing')!r} now; "
                "choose another name or run_dir"
            )


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        if prefix or key not in OWN_KEYS:
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def set_aside(run_dir: Path) -> Path | None:
    """Rename what an interrupted run left, so that nothing is lost and the folder is free."""
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return None
    count = 1
    while (aside := run_dir.with_name(f"{run_dir.name}.interrupted-{count}")).exists():
        count += 1
    run_dir.rename(aside)
    return aside


def inputs_of(run: PlannedRun) -> Inputs:
    """Prepare a run's folder and inputs, as `launch.train` does."""
    return prepare(run.composed.copy())


async def compare(planned: list[PlannedRun]) -> None:
    """Run what has not finished, on one system."""
    from rich.console import Console

    from launch.record.progress import Startup
    from launch.run.system import System

    console = Console()
    left = [run for run in planned if run.summary() is None]
    system: System | None = None
    try:
        for number, run in enumerate(left, len(planned) - len(left) + 1):
            aside = set_aside(run.run_dir)
            if aside is not None:
                console.print(f"{run.arm} seed {run.seed} was interrupted; kept in {aside}")
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


def results_of(planned: list[PlannedRun]) -> dict[str, dict[int, FinishedRun]]:
    """Collect the finished runs by arm and seed.

    Raises:
        UserError: If a run's metrics are not all there.
    """
    summaries = {(run.arm, run.seed): run.summary() for run in planned}
    # Every run of a seed starts from one policy; the first arm's run measured it.
    starts = {
        seed: summary["pass_rate_before"]
        for (_, seed), summary in summaries.items()
        if summary is not None and summary.get("pass_rate_before") is not None
    }
    found: dict[str, dict[int, FinishedRun]] = {}
    for run in planned:
        summary = summaries[run.arm, run.seed]
        if summary is None:
            continue
        with _or_move_away():
            steps = read_steps(run.run_dir, in_some=NEEDED_METRICS, at_least=summary["num_steps"])
        curve = curve_of(metric_columns(steps), summary, starts.get(run.seed, math.nan))
        found.setdefault(run.arm, {})[run.seed] = FinishedRun(summary, curve)
    return found


def report(config: CompareConfig, planned: list[PlannedRun], folder: Path) -> None:
    """Print the table and what it shows; write `comparison.json` and `comparison.html`."""
    from rich.console import Console

    from launch.study.comparison.page import page

    budget, k = config.budget, int(planned[0].composed.evaluation.num_samples)
    background = bool(planned[0].composed.evaluation.background)
    runs = results_of(planned)
    found = find(config.name, budget.axis, budget.amount, runs, k, background=background)
    # Wide enough for every column, also where the output goes to a file.
    console = Console(width=170)
    console.print(table(found))
    for line in [*sentences(found), *found.notes]:
        console.print(line, markup=False, highlight=False)
    write_json(folder / "comparison.json", comparison_json(found))
    (folder / "comparison.html").write_text(page(found), encoding="utf-8")
    console.print(f"files: {folder / 'comparison.html'}, comparison.json", markup=False)


def check(config: CompareConfig, folder: Path) -> list[PlannedRun]:
    """Refuse everything that can be refused, before the first run and without changing a file.

    Raises:
        UserError: With one sentence on what to change.
    """
    require_own_folder(config, folder)
    planned = plan_runs(config)
    arms = {run.arm: build(run.composed.copy()) for run in planned[: len(config.arms)]}
    require_reachable(config, arms)
    for run in planned:
        if run.summary() is not None:
            require_same_settings(run)
    results_of(planned)
    return planned


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(composed: DictConfig) -> None:
    """Compare as configured."""

    def program() -> None:
        from launch.run.cluster import cluster

        config: CompareConfig = build(composed)
        folder = Path(config.run_dir).resolve()
        planned = check(config, folder)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(plan_content(config)), folder / PLAN)
        if any(run.summary() is None for run in planned):
            with cluster(build(planned[0].composed.copy()).resources):
                asyncio.run(compare(planned))
        report(config, planned, folder)

    run_program(program)


if __name__ == "__main__":
    start(main)
