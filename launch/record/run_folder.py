"""What a run folder holds: the names of its files, and the one way to read and to refuse each.

config.yaml   -> read_config
metrics.jsonl -> read_steps -> metric_columns -> at_versions
samples.jsonl -> read_samples
cells.jsonl   -> read_cells
summary.json  -> read_summary
restarts.json -> launch.record.restarts.read_restarts
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cost.types import FloatArray, IntArray
from launch.cli.refusals import UserError, one_line, reason_of
from launch.record.plain_yaml import plain_yaml

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CELLS = "cells.jsonl"
EVALUATION = "evaluation.json"
"""Of `launch.evaluate`."""
OTHERS = {
    EVALUATION: "an evaluation's",
    **dict.fromkeys(("simulation.json", "plan.json", "check.json"), "a simulation's"),
    "theory.json": "that of launch.theory",
}
"""Results of other programs than a run, and whose folder has them."""
EVALUATIONS = "evaluations.jsonl"
"""Of `launch.train`: a line for each evaluation; see `launch.record.evaluation_file`."""
RESPONSES = "responses.jsonl"
"""Of `launch.evaluate`; see `launch.record.responses`."""
RESPONSES_FOLDER = "responses"
"""The same of every evaluation of a training."""
SUMMARY = "summary.json"
PICTURE = "run.png"
RESTARTS = "restarts.json"
BEST = "best.json"
"""Of `launch.run.best`: which step made the best policy so far."""
EVALUATED = "evaluation/version"
"""Metric that says which version an evaluation is of."""
AFTERWARDS = "afterwards/"
"""Before a metric of an evaluation that ended in the background after the last step."""
MOST_BYTES = {".yaml": 2**20, ".json": 2**26, ".jsonl": 2**32}
"""Of files that are read, by their kind."""
LARGEST = 1e30
"""Beyond any figure of a run; numbers of JSON have no end."""
CELL_COLUMNS = ("length_cells", "pass_rate_cells", "num_prompts", "probabilities")


@dataclass(frozen=True, slots=True)
class StepCells:
    """Where draws went after one step; see `cost.draws.distribution.DrawCells`."""

    step: int
    length_cells: IntArray
    pass_rate_cells: IntArray
    num_prompts: IntArray
    probabilities: FloatArray


def read_config(folder: Path, needed: Mapping[str, type] = MappingProxyType({})) -> dict[str, Any]:
    """Return the settings of a run.

    Args:
        folder: Of the run.
        needed: Keys that it must have, and what each must hold.

    Raises:
        UserError: If `config.yaml` is missing, holds no settings or lacks one of them.
    """
    text = _read_text(folder, CONFIG)
    try:
        config = plain_yaml(text)
        OmegaConf.create(config if isinstance(config, dict) else {})
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise refused(
            folder, f"{CONFIG} is not YAML of plain values ({one_line(error)})"
        ) from error
    if not isinstance(config, dict) or not config:
        raise refused(folder, f"{CONFIG} has no settings")
    for key, kind in needed.items():
        if not isinstance(config.get(key), kind):
            raise refused(
                folder,
                f"{CONFIG} must have {key} as launch.train writes it, got "
                f"{config.get(key)!r:.60}; it is another program's or of another version",
            )
    # What hydra needs to run it again is no setting.
    return {key: value for key, value in config.items() if key not in ("defaults", "hydra")}


def read_summary(folder: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Return the results of a run that ended.

    Args:
        folder: Of the run.
        needed: Keys that it must have.

    Raises:
        UserError: If `summary.json` is missing, damaged or lacks one of them.
    """
    remark = "; it goes on or was killed: a run that ended has one"
    summary: Any = read_json(folder, SUMMARY, remark)
    if not isinstance(summary, dict):
        raise refused(folder, f"{SUMMARY} has no results")
    for key in needed:
        if key not in summary:
            raise _other_version(folder, f"{SUMMARY} has no {key}")
        parts = summary[key].values() if isinstance(summary[key], dict) else [summary[key]]
        if not all(part is None or isinstance(part, int | float) for part in parts):
            raise refused(folder, f"{key} in {SUMMARY} is not a number, got {summary[key]!r:.60}")
    return summary


def read_json(folder: Path, name: str, remark: str = "") -> object:
    """Return what a JSON file of a run holds.

    Args:
        folder: Of the run.
        name: Of the file.
        remark: What follows where it is missing.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        content: object = _parsed(_read_text(folder, name, remark))
    except (ValueError, RecursionError) as error:
        raise refused(folder, f"{name} is not JSON") from error
    return content


def read_steps(
    folder: Path,
    *,
    in_every: Sequence[str] = (),
    in_some: Sequence[str] = (),
    at_least: int = 1,
    goes_on: bool = False,
) -> list[dict[str, Any]]:
    """Return the metrics of every step, in step order.

    Those of an evaluation that ended after the last step, which have a line of their own, are with
    that step's, under keys with `AFTERWARDS` before them.

    Args:
        folder: Of the run.
        in_every: Metrics that every line must have as a finite number.
        in_some: Metrics that at least one line must have.
        at_least: Steps that there must be.
        goes_on: Whether the run may still go on or have been killed, so that a last line cut
            short is passed over.

    Raises:
        UserError: If `metrics.jsonl` is missing, damaged, too short or lacks a metric.
    """
    lines = _read_lines(folder, METRICS, goes_on=goes_on)
    if not lines and at_least:
        raise refused(folder, f"{METRICS} has no step; the run ended before its first one")
    present = {key for line in lines for key, value in line.items() if value is not None}
    for key in in_some:
        if key not in present:
            raise _other_version(folder, f"no line of {METRICS} has {key}")
    by_step: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        for key, value in line.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not is_number:
                raise refused(folder, f"{key} in line {number} of {METRICS} is not a number")
        step = line["step"]
        if step in by_step and is_afterwards(line):
            later = {key: line[key] for key in line if key not in ("step", "time")}
            # Who asks for the metric finds a column of it, too.
            by_step[step] = dict.fromkeys(later) | by_step[step]
            by_step[step] |= {f"{AFTERWARDS}{key}": value for key, value in later.items()}
            continue
        for key in in_every:
            if line.get(key) is None or not math.isfinite(line[key]):
                raise _other_version(folder, f"line {number} of {METRICS} has no {key}")
        if step in by_step:
            raise refused(
                folder,
                f"line {number} of {METRICS} repeats step {step}; two runs wrote into one folder",
            )
        by_step[step] = line
    if len(by_step) < at_least:
        raise refused(
            folder, f"{METRICS} has {len(by_step)} steps, and at least {at_least} steps are needed"
        )
    return [by_step[step] for step in sorted(by_step)]


def is_afterwards(line: Mapping[str, Any]) -> bool:
    """Whether a line of the metrics is of an evaluation alone, which ended after its step."""
    rest = line.keys() - {"step", "time"}
    return EVALUATED in rest and all(key.startswith("evaluation/") for key in rest)


def metric_columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    """Return the metrics of T steps as one array [T] a key; NaN where a step lacks it."""
    keys = ["step", *sorted({key for step in steps for key in step} - {"step"})]
    columns = {key: [step.get(key) for step in steps] for key in keys}
    # As float64, None is NaN.
    return {key: np.array(column, dtype=np.float64) for key, column in columns.items()}


def at_versions(metrics: Mapping[str, FloatArray], key: str) -> FloatArray:
    """Return [T] a figure of evaluations, each at the step that published what was evaluated.

    An evaluation in the background comes with the metrics of a later step than the one after which
    it began. Step v publishes version v; an evaluation that names no version is of its own step's.
    NaN at a step whose version was not evaluated; versions of steps that are not there are left
    out.

    Args:
        metrics: From `metric_columns`.
        key: Of the figure, a metric under `evaluation/`.
    """
    steps = metrics["step"]
    missing = np.full(len(steps), math.nan)
    found = missing.copy()
    for before in ("", AFTERWARDS):
        values = metrics.get(f"{before}{key}", missing)
        versions = metrics.get(f"{before}{EVALUATED}", missing)
        of = np.where(np.isfinite(versions), versions, steps)
        places = np.searchsorted(steps, of)
        known = np.isfinite(values) & (places < len(steps))
        known[known] = steps[places[known]] == of[known]
        found[places[known]] = values[known]
    return found


def read_samples(
    folder: Path, needed: Sequence[str], *, goes_on: bool = False
) -> list[dict[str, Any]]:
    """Return the responses that were kept for people to read, in the order of their steps.

    Args:
        folder: Of the run.
        needed: Keys that each must have.
        goes_on: As in `read_steps`.

    Raises:
        UserError: If `samples.jsonl` is missing, damaged or lacks one of them.
    """
    samples = _read_lines(folder, SAMPLES, needed, goes_on=goes_on)
    for number, sample in enumerate(samples, start=1):
        turns = sample.get("turns", [])
        if not isinstance(turns, list) or not all(map(_is_turn, turns)):
            raise _other_version(folder, f"line {number} of {SAMPLES} has other turns")
    return samples


def _is_turn(value: object) -> bool:
    numbers = ("num_tokens", "calls", "failed_calls", "seconds")
    return (
        isinstance(value, dict)
        and {"trained", "text"} <= value.keys()
        and all(isinstance(value.get(key), int | float) for key in numbers)
    )


def read_cells(folder: Path) -> list[StepCells]:
    """Return where draws went, in step order; empty where `cells.jsonl` was not written.

    Raises:
        UserError: If the file is damaged.
    """
    if not (folder / CELLS).exists():
        return []
    found: dict[int, StepCells] = {}
    for number, line in enumerate(_read_lines(folder, CELLS, CELL_COLUMNS), start=1):
        try:
            columns = {key: np.asarray(line[key], dtype=np.float64) for key in CELL_COLUMNS}
        except (TypeError, ValueError) as error:
            reason = f"line {number} of {CELLS} holds something else"
            raise _other_version(folder, reason) from error
        if not all(np.isfinite(column).all() for column in columns.values()) or not (
            columns["num_prompts"].size and (columns["num_prompts"] > 0).all()
        ):
            raise _other_version(folder, f"line {number} of {CELLS} holds something else")
        if len({column.shape for column in columns.values()}) != 1:
            reason = f"line {number} of {CELLS} holds columns of different lengths"
            raise _other_version(folder, reason)
        found[line["step"]] = StepCells(
            step=line["step"],
            length_cells=columns["length_cells"].astype(np.int64),
            pass_rate_cells=columns["pass_rate_cells"].astype(np.int64),
            num_prompts=columns["num_prompts"].astype(np.int64),
            probabilities=columns["probabilities"],
        )
    return [found[step] for step in sorted(found)]


def refused(folder: Path, reason: str) -> UserError:
    """Return what to raise for a folder that cannot be used as a run.

    Args:
        folder: As it was named.
        reason: What is wrong, with file and line, and what to do about it.
    """
    return UserError(f"a run must be a folder of launch.train, got {str(folder)!r}: {reason}")


def _other_version(folder: Path, reason: str) -> UserError:
    return refused(folder, f"{reason}; it is of another version, use it with that one")


def _read_lines(
    folder: Path, name: str, needed: Sequence[str] = (), *, goes_on: bool = False
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    # Text of a response may hold other line breaks than this one.
    content = _read_text(folder, name)
    lines = content.removesuffix("\n").split("\n") if content else []
    for number, text in enumerate(lines, start=1):
        try:
            record = _parsed(text)
        except (ValueError, RecursionError) as error:
            if goes_on and number == len(lines) and not content.endswith("\n"):
                break
            reason = f"line {number} of {name} is not JSON; if it was cut off, remove it"
            raise refused(folder, reason) from error
        for key in ("step", *needed):
            if not isinstance(record, dict) or key not in record:
                raise _other_version(folder, f"line {number} of {name} has no {key}")
        if not isinstance(record["step"], int) or isinstance(record["step"], bool):
            raise refused(folder, f"step in line {number} of {name} is not a whole number")
        records.append(record)
    return records


def _parsed(text: str) -> Any:
    """What JSON says, with null for numbers that are no figure of a run, as it writes them."""
    return json.loads(
        text,
        parse_int=lambda digits: _figure(int(digits)),
        parse_float=lambda digits: _figure(float(digits)),
        parse_constant=lambda name: None,
    )


def _figure(value: float) -> float | None:
    return value if abs(value) <= LARGEST else None


def _read_text(folder: Path, name: str, remark: str = "") -> str:
    if not folder.is_dir():
        raise refused(folder, "it is a file" if folder.exists() else "there is no such folder")
    path = folder / name
    if path.exists() and not path.is_file():
        raise refused(folder, f"{name} is no file with an end")
    try:
        if path.stat().st_size > MOST_BYTES[path.suffix]:
            most = MOST_BYTES[path.suffix] // 2**20
            raise refused(folder, f"{name} has more than {most} MiB, which no run writes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise refused(folder, f"it has no {name}{_what_it_is(folder) or remark}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise refused(folder, f"{name} cannot be read ({reason_of(error)})") from error


def _what_it_is(folder: Path) -> str:
    """Return what is to be read in the place of a folder that other programs than a run made."""
    if any(folder.glob(f"*/seed-*/{CONFIG}")):
        return "; it is a comparison's, whose page is comparison.html: name its runs, ARM/seed-N"
    for name, whose in OTHERS.items():
        if (folder / name).exists():
            return f"; it is {whose}, whose results are in {name}: name a run's folder"
    return ""


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet, and the folders above it.

    Raises:
        UserError: If it exists or cannot be written; the setting is called `out`.
    """
    if os.path.lexists(path):
        raise UserError(f"out must be a new file, got {str(path)!r}, which exists; choose another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"out must be writable, got {str(path)!r}: {error.strerror}") from error
