"""Where the time of a run went: `python -m launch.trace RUN [step=N] [out=FILE]`.

    metrics.jsonl -> step_events -> a Chrome trace, to open in ui.perfetto.dev or chrome://tracing

Three lanes: the loop, which waits, updates, publishes and evaluates in turn; the engines; and what
is known of the inside of an update and a publish. Durations are measured. Where on the clock they
lie follows from the order of the loop and from the time at which each step was logged. The engines'
lane shows in one piece, from the publish on which a batch is admitted, the seconds in which they
generated, wherever between two publishes those were.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from conf.programs import TraceConfig, register
from launch.program import UserError, build, run_program, start

register()

LOOP, ENGINES, INSIDE = "loop", "engines", "inside"
LANES = {LOOP: 1, ENGINES: 2, INSIDE: 3}
NEEDED = ("time", *(f"loop/{part}_seconds" for part in ("wait", "update", "publish", "generate")))
NOTE = (
    "Durations are measured; starts follow from the order of the loop and the time each step was "
    "logged. The engines' seconds of a step are drawn in one piece."
)
ARGUMENTS = {
    "update": ("learner/tokens", "learner/rows", "learner/row_fill", "cost/step_trained_tokens"),
    "publish": ("publish/bytes", "parity/max_logprob_difference"),
    "generate": ("cost/step_generated_tokens", "rollout/length_mean_tokens", "loop/staleness"),
    "evaluate": ("evaluation/pass_rate", "evaluation/version", "evaluation/last_version"),
}
"""Metrics of the step shown with a slice."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that went on from `start` for `seconds`."""

    lane: str
    name: str
    start: float
    """Seconds since the epoch."""
    seconds: float
    step: int
    args: Mapping[str, float]


def step_slices(records: Sequence[Mapping[str, Any]]) -> list[Slice]:
    """Place what every step measured on the clock.

    A step is logged last of all, so that its parts are counted back from there; it begins no
    earlier than the step before was logged. An evaluation in the background took no turn in the
    loop and is left out.

    Args:
        records: Lines of `metrics.jsonl`, in step order, each with `NEEDED` as finite numbers.
    """
    slices: list[Slice] = []
    logged = published = generated = -math.inf
    for record in records:
        evaluate = _evaluation_seconds(record)
        wait, update, publish, generate = (
            float(record[f"loop/{part}_seconds"])
            for part in ("wait", "update", "publish", "generate")
        )
        began = max(float(record["time"]) - evaluate - publish - update - wait, logged)
        if logged > -math.inf:
            slices.append(_slice(LOOP, "save and log", logged, began - logged, record))
        start = began
        for name, seconds in (("wait", wait), ("update", update), ("publish", publish)):
            slices.append(_slice(LOOP, name, start, seconds, record))
            start += seconds
        update_end, publish_end = began + wait + update, start
        # The last pass ends the update; the transfer of the weights begins the publish.
        learning = min(_number(record, "learner/update_seconds"), update)
        slices.append(_slice(INSIDE, "last pass", update_end - learning, learning, record))
        transfer = min(_number(record, "publish/seconds"), publish)
        slices.append(_slice(INSIDE, "transfer", update_end, transfer, record))
        if transfer:
            rest = publish - transfer
            slices.append(_slice(INSIDE, "parity and rest", update_end + transfer, rest, record))
        if evaluate:
            slices.append(_slice(LOOP, "evaluate", publish_end, evaluate, record))
        # What is counted here was generated since the publish before.
        first = max(published if published > -math.inf else began, generated)
        slices.append(_slice(ENGINES, "generate", first, generate, record))
        generated = first + generate
        published, logged = publish_end, max(float(record["time"]), publish_end + evaluate)
    return [found for found in slices if found.seconds > 0]


def trace(slices: Sequence[Slice], name: str) -> dict[str, Any]:
    """Return a trace in the JSON object form of Chrome's trace event format.

    Args:
        slices: At least one.
        name: Of the run.
    """
    zero = min(found.start for found in slices)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": name}}
    ]
    for lane, number in LANES.items():
        about = {"ph": "M", "pid": 1, "tid": number}
        events.append(about | {"name": "thread_name", "args": {"name": lane}})
        events.append(about | {"name": "thread_sort_index", "args": {"sort_index": number}})
    for found in sorted(slices, key=lambda found: (found.start, LANES[found.lane])):
        events.append(
            {
                "ph": "X",
                "name": found.name,
                "cat": found.lane,
                "pid": 1,
                "tid": LANES[found.lane],
                # The format counts in microseconds.
                "ts": round((found.start - zero) * 1e6, 3),
                "dur": round(found.seconds * 1e6, 3),
                "args": {"step": found.step, "seconds": found.seconds, **found.args},
            }
        )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"run": name, "start_time": zero, "note": NOTE},
    }


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """Read the steps of a run folder; the last line of a step counts.

    Raises:
        UserError: If the folder, its metrics or a key of `NEEDED` is missing.
    """
    path = run_dir / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"RUN must be a folder of launch.train with metrics.jsonl ({reason}), "
            f"got {str(run_dir)!r}"
        ) from error
    if not lines:
        raise UserError(f"{path} has no steps; wait for the first, or name another run, got 0")
    by_step: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            by_step[record["step"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}:{number} is no record of a step; remove the line if the run was cut off, "
                f"got {line[:80]!r}"
            ) from error
        for key in NEEDED:
            if not math.isfinite(_number(record, key, math.nan)):
                raise UserError(
                    f"{path}:{number} lacks {key}, which a trace needs; name a run of this "
                    f"version of launch.train, got {record.get(key)!r}"
                )
    return [by_step[step] for step in sorted(by_step)]


def run(folder: Path, step: int | None = None, out: Path | None = None) -> Path:
    """Read the run and write the trace.

    Args:
        folder: A run folder.
        step: This step alone; None takes all.
        out: A new file; None takes trace.json or trace-STEP.json in the run folder.

    Returns:
        The file.

    Raises:
        UserError: If the run cannot be read, has no such step, or the file exists or cannot be
            written.
    """
    out = out or folder / ("trace.json" if step is None else f"trace-{step}.json")
    records = read_records(folder)
    slices = step_slices(records)
    if step is not None:
        slices = [found for found in slices if found.step == step]
        if not slices:
            raise UserError(
                f"step must be a step of the run, {records[0]['step']} to "
                f"{records[-1]['step']}, got {step}"
            )
    if os.path.lexists(out):
        raise UserError(f"out must be a new file, got {str(out)!r}, which exists; choose another")
    content = json.dumps(trace(slices, folder.resolve().name), allow_nan=False)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(content + "\n")
    except OSError as error:
        raise UserError(f"out must be writable, got {str(out)!r}: {error.strerror}") from error
    num_steps = len({found.step for found in slices})
    print(f"{out} ({num_steps} steps; open it in https://ui.perfetto.dev)")
    return out


def _slice(lane: str, name: str, start: float, seconds: float, record: Mapping[str, Any]) -> Slice:
    args = {key: record[key] for key in ARGUMENTS.get(name, ()) if record.get(key) is not None}
    return Slice(lane, name, start, seconds, int(record["step"]), args)


def _evaluation_seconds(record: Mapping[str, Any]) -> float:
    """Seconds for which the loop stood still for an evaluation."""
    version = record.get("evaluation/version")
    # One in the background began at an earlier version than the one this step published.
    if version is not None and version != record["step"]:
        return 0.0
    return _number(record, "evaluation/seconds")


def _number(record: Mapping[str, Any], key: str, default: float = 0.0) -> float:
    value = record.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and value is not None else default


@hydra.main(version_base="1.3", config_path="../conf", config_name="trace")
def main(composed: DictConfig) -> None:
    """Draw the trace as configured."""

    def program() -> None:
        config: TraceConfig = build(composed)
        out = None if config.out is None else Path(config.out)
        run(Path(config.runs[0]), config.step, out)

    run_program(program)


if __name__ == "__main__":
    start(main, words="runs")
