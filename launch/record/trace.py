"""Where the time of a run went, as a Chrome trace to open in ui.perfetto.dev or chrome://tracing.

    metrics.jsonl, samples.jsonl -> step_slices -> trace -> trace.json

Three lanes: the loop, which waits, updates, publishes and evaluates in turn; the engines; and what
is known of the inside of an update and a publish. Where responses had turns, those of the group
that a step's samples show have a lane each, with their tools. Durations are measured. Where on the
clock they lie follows from the order of the loop and from the time at which each step was logged.
The engines' lane shows in one piece, from the publish on which a batch is admitted, the seconds in
which they generated, wherever between two publishes those were; tools lie in it
(`launch.record.tool_slices`).

A run that went on after a stop is shown in one piece, with a mark: what lay between its last step
before and the first one after is left out, so that later starts are that much earlier.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.cli.refusals import UserError
from launch.record.restarts import Restart, first_steps_after, read_restarts, still_seen
from launch.record.run_folder import SAMPLES, read_samples, read_steps, write_new
from launch.record.summary import PHASES
from launch.record.tool_slices import NEEDED as SAMPLES_NEED
from launch.record.tool_slices import by_step, tool_slices

RESTART = "restart"
"""Name of the mark."""
LOOP, ENGINES, INSIDE = "loop", "engines", "inside"
LANES = {LOOP: 1, ENGINES: 2, INSIDE: 3}
NEEDED = ("time", *(f"loop/{part}_seconds" for part in PHASES))
NOTE = (
    "Durations are measured; starts follow from the order of the loop and the time each step was "
    "logged. The engines' seconds of a step are drawn in one piece, and tools as if the turns of a "
    "group filled it."
)
ARGUMENTS = {
    "update": ("learner/tokens", "learner/rows", "learner/row_fill", "cost/step_trained_tokens"),
    "publish": ("publish/bytes", "parity/max_logprob_difference"),
    "generate": (
        "loop/generated_tokens",
        "rollout/length_mean_tokens",
        "loop/staleness",
        "rollout/turns_mean",
        "rollout/tool_calls_mean",
        "rollout/tool_mean_seconds",
    ),
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
    """0 for a mark."""
    step: int
    args: Mapping[str, Any]


def step_slices(
    records: Sequence[Mapping[str, Any]],
    restarts: Sequence[Restart] = (),
    samples: Sequence[Mapping[str, Any]] = (),
) -> list[Slice]:
    """Place what every step measured on the clock.

    A step is logged last of all, so that its parts are counted back from there; it begins no
    earlier than the step before was logged. An evaluation in the background took no turn in the
    loop and is left out.

    Args:
        records: Lines of `metrics.jsonl`, in step order, each with `NEEDED` as finite numbers.
        restarts: Of the run.
        samples: Lines of `samples.jsonl`.
    """
    played = by_step(samples)
    slices: list[Slice] = []
    logged = published = generated = -math.inf
    restarted = set(first_steps_after(restarts, [record["step"] for record in records]))
    left_out = 0.0
    for at, record in enumerate(records):
        evaluate = _evaluation_seconds(record)
        wait, update, publish, generate = (
            float(record[f"loop/{part}_seconds"])
            for part in ("wait", "update", "publish", "generate")
        )
        began = float(record["time"]) - evaluate - publish - update - wait - left_out
        if at in restarted:
            left_out += max(began - logged, 0.0)
            slices.append(_mark(records[at - 1]["step"], record["step"], restarts, logged))
            # Batches that were under way were lost: engines and learners begin together.
            began, published = logged, -math.inf
        began = max(began, logged)
        if logged > -math.inf:
            slices.append(_slice(LOOP, "save and log", logged, began - logged, record))
        start = began
        for name, seconds in (("wait", wait), ("update", update), ("publish", publish)):
            slices.append(_slice(LOOP, name, start, seconds, record))
            start += seconds
        publish_end = start
        slices += _inside(began + wait + update, update, publish, record)
        if evaluate:
            slices.append(_slice(LOOP, "evaluate", publish_end, evaluate, record))
        # What is counted here was generated since the publish before.
        first = max(published if published > -math.inf else began, generated)
        slices.append(_slice(ENGINES, "generate", first, generate, record))
        slices += _tools(played.get(record["step"], ()), slices[-1])
        generated = first + generate
        published = publish_end
        logged = max(float(record["time"]) - left_out, publish_end + evaluate)
    return [found for found in slices if found.seconds > 0 or found.name == RESTART]


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
    others = sorted(
        {found.lane for found in slices} - set(LANES), key=lambda name: (len(name), name)
    )
    lanes = LANES | {lane: number for number, lane in enumerate(others, len(LANES) + 1)}
    for lane, number in lanes.items():
        about = {"ph": "M", "pid": 1, "tid": number}
        events.append(about | {"name": "thread_name", "args": {"name": lane}})
        events.append(about | {"name": "thread_sort_index", "args": {"sort_index": number}})
    for found in sorted(slices, key=lambda found: (found.start, lanes[found.lane])):
        events.append(
            {
                "name": found.name,
                "cat": found.lane,
                "pid": 1,
                "tid": lanes[found.lane],
                # The format counts in microseconds.
                "ts": round((found.start - zero) * 1e6, 3),
                "args": {"step": found.step, "seconds": found.seconds, **found.args},
            }
            | (
                # A mark across all lanes.
                {"ph": "i", "s": "p"}
                if found.name == RESTART
                else {"ph": "X", "dur": round(found.seconds * 1e6, 3)}
            )
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
    told = (run_dir / SAMPLES).exists()
    samples = read_samples(run_dir, SAMPLES_NEED, goes_on=True) if told else []
    slices = step_slices(records, read_restarts(run_dir), samples)
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


def _tools(responses: Sequence[Sequence[Mapping[str, Any]]], engines: Slice) -> list[Slice]:
    """What the tools of a group took, as if it was in generation all of the engines' slice."""
    return [
        Slice(
            waited.lane,
            f"tool, turn {waited.turn}",
            waited.start,
            waited.seconds,
            engines.step,
            {"calls": waited.calls, "failed_calls": waited.failed_calls},
        )
        for waited in tool_slices(responses, engines.start, engines.seconds)
    ]


def _inside(
    update_end: float, update: float, publish: float, record: Mapping[str, Any]
) -> list[Slice]:
    """What is known of an update and of the publish that follows it."""
    # The last pass ends the update; the transfer of the weights begins the publish.
    learning = min(_seconds(record, "learner/update_seconds"), update)
    transfer = min(_seconds(record, "publish/seconds"), publish)
    found = [
        _slice(INSIDE, "last pass", update_end - learning, learning, record),
        _slice(INSIDE, "transfer", update_end, transfer, record),
    ]
    if transfer:
        rest = publish - transfer
        found.append(_slice(INSIDE, "parity and rest", update_end + transfer, rest, record))
    return found


def _mark(before: int, step: int, restarts: Sequence[Restart], start: float) -> Slice:
    """The restarts between two steps, as one mark."""
    reasons = [each.reason for each in still_seen(restarts) if before <= each.step < step]
    return Slice(LOOP, RESTART, start, 0.0, step, {"why": "; ".join(reasons)})


def _evaluation_seconds(record: Mapping[str, Any]) -> float:
    """Seconds for which the loop stood still for an evaluation."""
    version = record.get("evaluation/version")
    # One in the background began at an earlier version than the one this step published.
    if version is not None and version != record["step"]:
        return 0.0
    return _seconds(record, "evaluation/seconds")


def _seconds(record: Mapping[str, Any], key: str) -> float:
    return float(record.get(key) or 0.0)
