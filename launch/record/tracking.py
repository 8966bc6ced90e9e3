"""The plug `tracker`: where a run's metrics go.

    RunInfo -> open_all({console, jsonl, ...}) -> OpenTracker: log, samples, close

A tracker is a frozen setting; `open` gives the thing that holds files and connections.
"""

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from cost.draws.distribution import DrawCells
from launch.record.progress import Progress
from launch.record.run_folder import CELLS, METRICS, SAMPLES
from launch.record.summary import json_ready
from launch.record.thinned import ThinnedFile

LONGEST_TAG = 64
"""Most characters of a tag; wandb refuses longer ones."""
MOST_ROWS = 64
MOST_CHARACTERS = 20_000
"""Most of a table of samples at wandb, whose pages grow slow with large ones."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker may know of the run.

    Example: the configuration is shortened here.

        RunInfo(
            name="quickstart",
            run_dir=Path("runs/quickstart-20260901-120000"),
            config={"seed": 0, "loop": {"num_steps": 40, "max_staleness": 1}},
            num_steps=40,
        )
    """

    name: str
    run_dir: Path
    """The run folder, which may not exist yet."""
    config: Mapping[str, Any]
    """The resolved configuration."""
    num_steps: int
    """Batches to learn."""


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


class OpenTracker(Protocol):
    """A tracker at work, which holds files or connections."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step."""

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        """Take some responses of one step."""

    def cells(self, step: int, cells: DrawCells) -> None:
        """Take where the draws go after one step."""

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
    after a stop appends. Metrics are there for every step; samples and cells, which take most of
    the space, are thinned out as the run grows.
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
        return _OpenJsonl(run.run_dir, self)


@dataclass(frozen=True, slots=True)
class ConsoleTracker:
    """Shows progress on the terminal, or prints a line a step where there is none."""

    def open(self, run: RunInfo) -> OpenTracker:
        """Start the display."""
        return _OpenConsole(Progress(run.name, run.num_steps))


@dataclass(frozen=True, slots=True)
class WandbTracker:
    """Sends metrics, samples, configuration and results to Weights & Biases.

    Offline needs no account and no network; the run lies in the folder `wandb` in the run folder,
    and the line printed at its end uploads it later. The account is wandb's own business: `wandb
    login` or WANDB_API_KEY, which no file of the run folder holds.
    """

    project: str = "cost-aware-rl"
    mode: str = "offline"
    """"offline" or "online"."""
    group: str | None = None
    """Name under which wandb shows runs together; None for none. A comparison puts its own name."""
    tags: Sequence[str] = ()
    """Labels of the run; a comparison adds arm and seed."""

    def __post_init__(self) -> None:
        """Check the mode and what wandb takes for a tag."""
        if self.mode not in ("offline", "online"):
            raise ValueError(f"tracker.wandb.mode must be offline or online, got {self.mode!r}")
        if any(not 1 <= len(tag) <= LONGEST_TAG for tag in self.tags):
            raise ValueError(
                f"tracker.wandb.tags must have 1 to {LONGEST_TAG} characters each, "
                f"got {list(self.tags)!r}"
            )

    def open(self, run: RunInfo) -> OpenTracker:
        """Start a wandb run.

        Raises:
            ValueError: If the mode is online and wandb knows no account.
        """
        # wandb would advertise another product on every start.
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        import wandb

        if self.mode == "online" and not wandb.login(prompt=False):
            raise ValueError(
                "tracker.wandb.mode is online but no account is set: run `wandb login`, set "
                f"WANDB_API_KEY, or use mode offline, got {self.mode!r}"
            )
        run.run_dir.mkdir(parents=True, exist_ok=True)
        return _OpenWandb(
            wandb.init(
                project=self.project,
                name=run.name,
                group=self.group,
                tags=list(self.tags),
                dir=str(run.run_dir),
                config=dict(run.config),
                mode="online" if self.mode == "online" else "offline",
                # wandb would read the terminal, the git remote and the list of packages.
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, x_save_requirements=False
                ),
            ),
            offline=self.mode == "offline",
        )


def open_all(trackers: Mapping[str, Tracker], run: RunInfo) -> OpenTracker:
    """Open every tracker and hand each call to all of them, in order.

    If one fails to open, those before it are closed; `close` closes all even if some fail, then
    raises the error.
    """
    opened: list[OpenTracker] = []
    with ExitStack() as stack:
        for tracker in trackers.values():
            opened.append(tracker.open(run))
            stack.callback(opened[-1].close, {})
        stack.pop_all()
    return _All(opened)


class _All:
    def __init__(self, trackers: Sequence[OpenTracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        for tracker in self._trackers:
            tracker.samples(step, rows)

    def cells(self, step: int, cells: DrawCells) -> None:
        for tracker in self._trackers:
            tracker.cells(step, cells)

    def close(self, summary: Mapping[str, object]) -> None:
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close, summary)


class _OpenJsonl:
    def __init__(self, run_dir: Path, setting: JsonlTracker) -> None:
        # Line-buffered: a run that is killed leaves every finished line behind.
        self._metrics = (run_dir / METRICS).open("a", encoding="utf-8", buffering=1)
        self._samples = ThinnedFile(run_dir / SAMPLES, setting.most_samples)
        self._cells = ThinnedFile(run_dir / CELLS, setting.most_cells)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._metrics.write(_line({"step": step, "time": time.time(), **metrics}) + "\n")

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        if rows:
            self._samples.write(step, [_line({"step": step, **asdict(row)}) for row in rows])

    def cells(self, step: int, cells: DrawCells) -> None:
        self._cells.write(step, [_line({"step": step, **asdict(cells)})])

    def close(self, summary: Mapping[str, object]) -> None:
        self._metrics.close()
        self._samples.close()
        self._cells.close()


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

    def close(self, summary: Mapping[str, object]) -> None:
        self._progress.close()


class _OpenWandb:
    def __init__(self, run: Any, *, offline: bool) -> None:
        self._run = run
        self._offline = offline

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        import wandb

        columns: list[str | int] = [field.name for field in fields(Sample)]
        data = [[_short(value) for value in asdict(row).values()] for row in rows[:MOST_ROWS]]
        table = wandb.Table(columns=columns, data=data)
        self._run.log({"samples": table}, step=step)

    def cells(self, step: int, cells: DrawCells) -> None:
        """The metrics say how far from uniform the draws are; the files have the rest."""

    def close(self, summary: Mapping[str, object]) -> None:
        self._run.summary.update(json_ready(summary))
        folder = Path(self._run.dir).parent
        self._run.finish()
        if self._offline:
            print(f"to upload the run: wandb sync {shlex.quote(str(folder))}")


def _short(value: Any) -> Any:
    """Cut a text that is too long for a table; the files have all of it."""
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return value[:MOST_CHARACTERS] + f" ... ({len(value):,} characters)"
    return value
