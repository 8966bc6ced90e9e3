"""Where the time of a run went, as a Chrome trace to open in ui.perfetto.dev or chrome://tracing.

    metrics.jsonl -> step_slices -> trace -> trace.json

Three lanes: the loop, which waits, updates, publishes and evaluates in turn; the engines; and what
is known of the inside of an update and a publish. Durations are measured. Where on the clock they
lie follows from the order of the loop and from the time at which each step was logged. The engines'
lane shows in one piece, from the publish on which a batch is admitted, the seconds in which they
generated, wherever between two publishes those were.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.program import UserError
from launch.record.run_folder import read_steps, write_new
from launch.record.summary import PHASES

LOOP, ENGINES, INSIDE = "loop", "engines", "inside"
LANES = {LOOP: 1, ENGINES: 2, INSIDE: 3}
NEEDED = ("time", *(f"loop/{part}_seconds" for part in PHASES))
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
        learning = min(_seconds(record, "learner/update_seconds"), update)
        slices.append(_slice(INSIDE, "last pass", update_end - learning, learning, record))
        transfer = min(_seconds(record, "publish/seconds"), publish)
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
    """Return the steps of a run folder, in step order; the run may still go on.

    Raises:
        UserError: If the folder, its metrics or a key of `NEEDED` is missing.
    """
    return read_steps(run_dir, in_every=NEEDED, goes_on=True)


def write_trace(run_dir: Path, step: int | None = None, out: Path | None = None) -> Path:
    """Read a run and write its trace.

    Args:
        run_dir: The run folder.
        step: This step alone; None takes all.
        out: A new file; None takes trace.json or trace-STEP.json in the run folder.

    Returns:
        The file.

    Raises:
        UserError: If the run cannot be read, has no such step, or the file exists or cannot be
            written.
    """
    out = out or run_dir / ("trace.json" if step is None else f"trace-{step}.json")
    records = read_records(run_dir)
    slices = step_slices(records)
    if step is not None:
        slices = [found for found in slices if found.step == step]
        if not slices:
            raise UserError(
                f"step must be a step of the run, {records[0]['step']} to "
                f"{records[-1]['step']}, got {step}"
            )
    content = json.dumps(trace(slices, run_dir.resolve().name), allow_nan=False)
    write_new(out, f"{content}\n".encode())
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
    return _seconds(record, "evaluation/seconds")


def _seconds(record: Mapping[str, Any], key: str) -> float:
    return float(record.get(key) or 0.0)
