"""What a run folder says, read and checked.

config.yaml, summary.json, metrics.jsonl, samples.jsonl, cells.jsonl -> Run
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from yaml import YAMLError

from cost.types import FloatArray, IntArray
from launch.program import UserError
from launch.record.picture import metric_columns

PHASES = ("wait", "update", "publish")
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
    *(f"loop/{phase}_seconds" for phase in PHASES),
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
NEEDED_OF_SAMPLES = ("step", "prompt", "response", "answer", "expected", "reward", "length_tokens")
CELL_COLUMNS = ("length_cells", "pass_rate_cells", "num_prompts", "probabilities")


@dataclass(frozen=True, slots=True)
class StepCells:
    """Where draws went after one step; see `cost.draws.distribution.DrawCells`."""

    step: int
    length_cells: IntArray
    pass_rate_cells: IntArray
    num_prompts: IntArray
    probabilities: FloatArray


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pass rates on held-out prompts, in the order they were measured."""

    positions: IntArray
    """[M] position of the step after which it was measured; -1 before the first."""
    rates: FloatArray
    """[M] in [0, 1]."""
    errors: FloatArray
    """[M] standard errors over prompts; 0 where unknown."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as its folder tells."""

    name: str
    """Different for every run of a page."""
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Mapping[str, FloatArray]
    """[T] each, T at least 1, in step order; NaN where a step lacks the metric."""
    samples: Sequence[Mapping[str, Any]]
    cells: Sequence[StepCells]
    """In step order; empty where they were not recorded."""

    @property
    def steps(self) -> FloatArray:
        """[T] numbers of the steps."""
        return self.metrics["step"]

    @property
    def held_out(self) -> "HeldOut":
        """What was measured before, on the way and after."""
        rates, errors = (
            np.concatenate(
                [
                    [_fact(self.summary, f"pass_rate_before{part}")],
                    self.metrics.get(
                        f"evaluation/pass_rate{part}", np.full(len(self.steps), np.nan)
                    ),
                    [_fact(self.summary, f"pass_rate_after{part}")],
                ]
            )
            for part in ("", "_stderr")
        )
        positions = np.array([-1, *range(len(self.steps)), len(self.steps) - 1])
        if np.isfinite(rates[-1]):
            # The same weights as after the last step, measured again.
            rates[-2] = np.nan
        found = np.isfinite(rates)
        return HeldOut(positions[found], rates[found], np.nan_to_num(errors[found]))

    @property
    def ends(self) -> FloatArray:
        """[T] seconds at which each step ended, since the first began.

        Never less than the step's own parts add up to: of a simulated run only these are known.
        """
        phases = [np.nan_to_num(self.metrics[f"loop/{phase}_seconds"]) for phase in PHASES]
        parts = np.sum(phases, axis=0)
        passed = np.diff(np.nan_to_num(self.metrics["time"]), prepend=0.0)
        passed[0] = 0.0
        return np.cumsum(np.maximum(passed, parts))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders, in the order given.

    A run is called by its `name`; where two share one, the folder is added.

    Raises:
        UserError: Naming the first folder that cannot be used, and why.
    """
    resolved = [path.resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise UserError(f"RUN must name each folder once, got {str(paths[index])!r} twice")
    configs = [_read_config(path) for path in paths]
    names = [
        str(config.get("name") or path.name) for config, path in zip(configs, resolved, strict=True)
    ]
    times = Counter(names)
    unique = [
        name if times[name] == 1 else f"{name} ({path})"
        for name, path in zip(names, resolved, strict=True)
    ]
    return [
        _read_run(path, name, config)
        for path, name, config in zip(paths, unique, configs, strict=True)
    ]


def _read_run(path: Path, name: str, config: Mapping[str, Any]) -> Run:
    # The summary comes last in a run, so its absence says most.
    summary = _read_summary(path)
    lines = _read_lines(path, "metrics.jsonl", ("step",))
    if not lines:
        raise _refused(path, "metrics.jsonl has no step; the run ended before its first one")
    present = {key for line in lines for key, value in line.items() if value is not None}
    for key in NEEDED_METRICS:
        if key not in present:
            raise _other_version(path, f"no line of metrics.jsonl has {key}")
    for number, line in enumerate(lines, start=1):
        for key, value in line.items():
            if value is not None and not isinstance(value, int | float):
                raise _refused(path, f"{key} in line {number} of metrics.jsonl is not a number")
    has_cells = (path / "cells.jsonl").exists()
    return Run(
        name=name,
        config=config,
        summary=summary,
        metrics=metric_columns(lines),
        samples=_read_lines(path, "samples.jsonl", NEEDED_OF_SAMPLES),
        cells=_read_cells(path) if has_cells else (),
    )


def _fact(summary: Mapping[str, Any], key: str) -> float:
    value = summary.get(key)
    return float(value) if isinstance(value, int | float) else np.nan


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        reason = "it is a file" if path.exists() else "there is no such folder"
        raise _refused(path, reason)
    text = _read_text(path, "config.yaml")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, ValueError) as error:
        raise _refused(path, "config.yaml is not YAML") from error
    if not isinstance(config, dict):
        raise _refused(path, "config.yaml has no settings")
    # What hydra needs to run it again is no setting.
    return {key: value for key, value in config.items() if key not in ("defaults", "hydra")}


def _read_summary(path: Path) -> Mapping[str, Any]:
    text = _read_text(path, "summary.json", "; it goes on or was killed: a run that ended has one")
    try:
        summary: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise _refused(path, "summary.json is not JSON") from error
    for key in NEEDED_FACTS:
        if not isinstance(summary, dict) or key not in summary:
            raise _other_version(path, f"summary.json has no {key}")
    return summary


def _read_cells(path: Path) -> list[StepCells]:
    found: dict[int, StepCells] = {}
    for line in _read_lines(path, "cells.jsonl", ("step", *CELL_COLUMNS)):
        try:
            columns = {key: np.asarray(line[key], dtype=np.float64) for key in CELL_COLUMNS}
        except (TypeError, ValueError) as error:
            raise _other_version(path, "cells.jsonl holds something else") from error
        if len({column.shape for column in columns.values()}) != 1:
            raise _other_version(path, "cells.jsonl holds columns of different lengths")
        found[line["step"]] = StepCells(
            step=line["step"],
            length_cells=columns["length_cells"].astype(np.int64),
            pass_rate_cells=columns["pass_rate_cells"].astype(np.int64),
            num_prompts=columns["num_prompts"].astype(np.int64),
            probabilities=columns["probabilities"],
        )
    return [found[step] for step in sorted(found)]


def _read_lines(path: Path, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, text in enumerate(_read_text(path, name).splitlines(), start=1):
        try:
            record = json.loads(text)
        except ValueError as error:
            reason = f"line {number} of {name} is not JSON; if it was cut off, remove it"
            raise _refused(path, reason) from error
        for key in keys:
            if not isinstance(record, dict) or key not in record:
                raise _other_version(path, f"line {number} of {name} has no {key}")
        if not isinstance(record["step"], int):
            raise _refused(path, f"step in line {number} of {name} is not a whole number")
        records.append(record)
    return records


def _read_text(path: Path, name: str, remark: str = "") -> str:
    try:
        return (path / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _refused(path, f"it has no {name}{remark}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"{name} cannot be read ({error})") from error


def _other_version(path: Path, reason: str) -> UserError:
    return _refused(path, f"{reason}; it is of another version, make the report with that one")


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"RUN must be a folder of launch.train, got {str(path)!r}: {reason}")
