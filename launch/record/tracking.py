"""The plug `tracker`: where a run's metrics go.

    RunInfo -> Tracker.open -> OpenTracker: log, samples, cells, state_dict, close

A tracker is a frozen setting; `open` gives the thing that holds files and connections. All of a
run's are opened by `launch.record.open_trackers`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cost.draws.distribution import DrawCells
from launch.record.atomic_files import AtomicLines
from launch.record.bounded_log import BoundedLog
from launch.record.json_file import json_ready
from launch.record.progress import Progress
from launch.record.restarts import Restart
from launch.record.retried_writes import RetriedWrites
from launch.record.run_folder import CELLS, METRICS, SAMPLES


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker may know of the run.

    Example: the configuration is shortened here.

        RunInfo(
            name="quickstart",
            run_dir=Path("runs/quickstart-20260901-120000"),
            config={"seed": 0, "loop": {"num_steps": 40, "max_staleness": 1}},
            num_steps=40,
            first_step=20,
            restarts=(Restart(20, 3, 1_790_000_000.0, "resumed after SIGTERM"),),
            state={"id": "x7f3k2p9"},
        )
    """

    name: str
    run_dir: Path
    """The run folder, which may not exist yet."""
    config: Mapping[str, Any]
    """The resolved configuration."""
    num_steps: int
    """Batches to learn, those before `first_step` included."""
    first_step: int = 0
    """Batches learned before this start: the run goes on from that step, 0 if it is new. Calls for
    later steps that a tracker had before the stop are of steps that are lost."""
    restarts: Sequence[Restart] = ()
    """Every time the run went on after a stop, this one included."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What this tracker's `state_dict` returned as of `first_step`; empty where there is none."""

    @property
    def title(self) -> str:
        """Return what tells the run from others in a list.

        Runs of a recipe share their name, those of a comparison's arms the names of their folders.

        Example: "quickstart-20260901-120000", which has the name in it, or "thinned-0/seed-0".
        """
        folder = self.run_dir.name
        return folder if folder.startswith(self.name) else f"{self.name}/{folder}"


@dataclass(frozen=True, slots=True)
class SampleTurn:
    """What the policy or the environment said in one turn, to be read by a person.

    Example: a call, which is trained on.

        SampleTurn(
            trained=True,
            text='{"name": "calculator", "arguments": {"expression": "6*7"}}',
            num_tokens=9,
            calls=1,
            failed_calls=0,
            seconds=0.02,
        )
    """

    trained: bool
    """True for the policy's tokens, which are in the loss mask; False for the environment's."""
    text: str
    """With special tokens, as the policy saw it."""
    num_tokens: int
    calls: int = 0
    failed_calls: int = 0
    seconds: float = 0.0
    """For which the environment then worked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response, to be read by a person.

    Example: the response of ticket 17 in `cost.types` that was trained on.

        Sample(
            prompt="a3 b+4",
            response="b7 #### 7",
            answer="7",
            expected="7",
            reward=1.0,
            length_tokens=10,
            advantage=0.999998,
            weight=0.78125,
        )
    """

    prompt: str
    response: str
    answer: str
    """What the reward extracted, "" if none."""
    expected: str
    """What the reward compared it with."""
    reward: float
    length_tokens: int
    advantage: float
    weight: float
    """Ticket weight over keep probability; 0 where the response was not trained on."""
    end: str = "answer"
    """What ended it: answer, tokens, max_turns or failure."""
    failure: str = ""
    """What failed where that is "failure", "" else."""
    turns: tuple[SampleTurn, ...] = ()
    """Of a response with several, in their order, the environment's among them."""


class OpenTracker(Protocol):
    """A tracker at work, which holds files or connections.

    Whatever its methods raise is told, and ends no run; they are called again at the next step. The
    run waits for each: what may hang, such as a server, belongs in `BackgroundCalls`.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step; of the last one again, where an evaluation ends after it.

        One in the background may, or one that a signal cut off, before the first step of a run that
        goes on: the second call then has its metrics alone.
        """

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        """Take some responses of one step."""

    def cells(self, step: int, cells: DrawCells) -> None:
        """Take where the draws go after one step."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what `open` needs of a run that goes on from here, in strict JSON's types.

        A tracker without this method is opened without a state.
        """

    def close(self, summary: Mapping[str, object]) -> None:
        """Take the run's results and let go of everything; called once."""


class Tracker(Protocol):
    """The setting of a tracker, which opens it for a run."""

    def open(self, run: RunInfo) -> OpenTracker:
        """Start tracking a run."""


@dataclass(frozen=True, slots=True)
class JsonlTracker:
    """Writes `metrics.jsonl`, `samples.jsonl` and `cells.jsonl` into the run folder, by lines.

    A line is on disk when `log` returns. What is not finite is written as null. A run that goes on
    after a stop appends to what `launch.record.restarts.cut_back` left. Metrics are there for every
    step, and for an evaluation that ends when its step is written (`run_folder.is_afterwards`);
    samples and cells, which take most of the space, are thinned out as the run grows. While the
    disk refuses lines, those of the last steps are kept in memory and tried again, 32 MiB of each
    file.
    """

    most_samples: int = 256
    """Steps of which `samples.jsonl` may hold responses; of a longer run it holds every second,
    fourth, ... step with samples, and the newest."""
    most_cells: int = 512
    """The same for `cells.jsonl`."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        for key in ("most_samples", "most_cells"):
            if getattr(self, key) < 2:
                raise ValueError(
                    f"tracker.jsonl.{key} must be at least 2, got {getattr(self, key)!r}"
                )

    def open(self, run: RunInfo) -> OpenTracker:
        """Open the files."""
        run.run_dir.mkdir(parents=True, exist_ok=True)
        return _OpenJsonl(run.run_dir, self, run.state)


@dataclass(frozen=True, slots=True)
class ConsoleTracker:
    """Shows progress on the terminal, or prints a line a step where there is none."""

    def open(self, run: RunInfo) -> OpenTracker:
        """Start the display."""
        return _OpenConsole(Progress(run.name, run.num_steps, first_step=run.first_step))


class _OpenJsonl:
    def __init__(self, run_dir: Path, setting: JsonlTracker, state: Mapping[str, Any]) -> None:
        self._metrics = AtomicLines(run_dir / METRICS)
        self._samples = BoundedLog(run_dir / SAMPLES, setting.most_samples, state.get("samples"))
        self._cells = BoundedLog(run_dir / CELLS, setting.most_cells, state.get("cells"))
        self._kept = {name: RetriedWrites() for name in (METRICS, SAMPLES, CELLS)}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        line = _line({"step": step, "time": time.time(), **metrics})
        self._kept[METRICS].put(len(line), lambda: self._metrics.append(f"{line}\n".encode()))

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        if rows:
            lines = [_line({"step": step, **asdict(row)}) for row in rows]
            size = sum(map(len, lines))
            self._kept[SAMPLES].put(size, lambda: self._samples.write(step, lines))

    def cells(self, step: int, cells: DrawCells) -> None:
        line = _line({"step": step, **asdict(cells)})
        self._kept[CELLS].put(len(line), lambda: self._cells.write(step, [line]))

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self._samples.state_dict(), "cells": self._cells.state_dict()}

    def close(self, summary: Mapping[str, object]) -> None:
        lacking = {}
        for name, kept in self._kept.items():
            with suppress(OSError):
                kept.flush()
            if kept.num_waiting + kept.num_dropped:
                lacking[name] = kept.num_waiting + kept.num_dropped
        for file in (self._metrics, self._samples, self._cells):
            file.close()
        if lacking:
            texts = [f"{name} lacks {count} steps" for name, count in lacking.items()]
            raise OSError(", ".join(texts))


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(json_ready(record), allow_nan=False)


class _OpenConsole:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._progress.update(step, metrics)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        """Responses are long; the files have them."""

    def cells(self, step: int, cells: DrawCells) -> None:
        """A map of two dimensions; the files have it."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self, summary: Mapping[str, object]) -> None:
        self._progress.close()
