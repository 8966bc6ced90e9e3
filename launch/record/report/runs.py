"""What a page is made of: every file of some run folders.

run folders -> read_runs -> Run
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cost.types import FloatArray
from launch.cli.refusals import UserError
from launch.cli.visible import visible
from launch.record.held_out import HeldOut
from launch.record.restarts import Restart, first_steps_after, read_restarts
from launch.record.run_folder import (
    SUMMARY,
    StepCells,
    metric_columns,
    read_cells,
    read_config,
    read_samples,
    read_steps,
    read_summary,
    refused,
)
from launch.record.summary import TURNS

LONGEST_NAME = 100
NEEDED_METRICS = (
    "time",
    "rollout/reward_mean",
    "rollout/pass_rate",
    "rollout/length_mean_tokens",
    "rollout/length_p95_tokens",
    "cost/generated_tokens",
    "cost/step_generated_tokens",
    "cost/step_selectable_tokens",
    "cost/step_trained_tokens",
    "loop/staleness",
    "loop/generate_seconds",
    *(f"loop/{phase}_seconds" for phase in TURNS),
)
"""Without these there is no page; a chart of any other says that it was not recorded."""
NEEDED_FACTS = (
    "completed",
    "num_steps",
    "generated_tokens",
    "trained_tokens",
    "selectable_tokens",
    "seconds",
)
NEEDED_OF_SAMPLES = ("prompt", "response", "answer", "expected", "reward", "length_tokens")


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as its folder tells."""

    name: str
    """What the page calls the run, different for every run of a page."""
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Mapping[str, FloatArray]
    """By key [T] values, T at least 1, in step order; NaN where a step lacks the metric."""
    samples: Sequence[Mapping[str, Any]]
    cells: Sequence[StepCells]
    """Where draws went, in step order; empty where it was not recorded."""
    restarts: Sequence[Restart] = ()
    """Every time the run went on after a stop."""

    @property
    def steps(self) -> FloatArray:
        """The numbers [T] of the steps."""
        return self.metrics["step"]

    @property
    def restarted(self) -> list[int]:
        """Positions of the steps with which the run went on after a stop, rising, from 1."""
        return first_steps_after(self.restarts, self.steps.tolist())

    @property
    def held_out(self) -> HeldOut:
        """The pass rates that were measured before, on the way and after."""
        return HeldOut.of(self.metrics, self.summary)

    @property
    def ends(self) -> FloatArray:
        """[T] seconds at which each step ended, since the first began.

        Never less than the step's own parts add up to: of a simulated run only these are known. A
        step with which the run went on after a stop takes no more: neither the time until then nor
        that of lost steps counts.
        """
        phases = [np.nan_to_num(self.metrics[f"loop/{phase}_seconds"]) for phase in TURNS]
        parts = np.sum(phases, axis=0)
        passed = np.diff(np.nan_to_num(self.metrics["time"]), prepend=0.0)
        passed[[0, *self.restarted]] = 0.0
        return np.cumsum(np.maximum(passed, parts))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, in the order given.

    A run is called by its `name`; where several share one, the end of its folder is added.

    Raises:
        UserError: Naming the first folder that cannot be used, and why.
    """
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise UserError(f"runs must name each folder once, got {str(folders[index])!r} twice")
    configs = [read_config(folder) for folder in folders]
    names = [
        _one_line(str(config.get("name") or folder.name))
        for config, folder in zip(configs, resolved, strict=True)
    ]
    times = Counter(names)
    labels = [
        name if times[name] == 1 else _label(name, folder, resolved)
        for name, folder in zip(names, resolved, strict=True)
    ]
    return [
        _read_run(folder, name, config)
        for folder, name, config in zip(folders, labels, configs, strict=True)
    ]


def _label(name: str, folder: Path, folders: Sequence[Path]) -> str:
    """A name that runs share, with the fewest last parts of its folder that are its alone."""
    others = [other.parts for other in folders if other != folder]
    counts = range(1, len(folder.parts))
    alone = (n for n in counts if all(other[-n:] != folder.parts[-n:] for other in others))
    return f"{name} ({_one_line('/'.join(folder.parts[-next(alone, len(folder.parts)) :]))})"


def _one_line(name: str) -> str:
    """A name that somebody else may have chosen, as a legend has room for."""
    return " ".join(visible(name).split())[:LONGEST_NAME]


def _read_run(folder: Path, name: str, config: Mapping[str, Any]) -> Run:
    # The summary comes last in a run, so its absence says most.
    summary = read_summary(folder, NEEDED_FACTS)
    if not isinstance(summary["seconds"], dict):
        raise refused(folder, f"seconds in {SUMMARY} must be by phase, got {summary['seconds']!r}")
    return Run(
        name=name,
        config=config,
        summary=summary,
        metrics=metric_columns(read_steps(folder, in_some=NEEDED_METRICS)),
        samples=read_samples(folder, NEEDED_OF_SAMPLES),
        cells=read_cells(folder),
        restarts=read_restarts(folder),
    )
