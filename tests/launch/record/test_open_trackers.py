"""All trackers as one: calls in order, failures told once, and nothing that ends a run."""

import json
import re
from pathlib import Path

import pytest

from launch.cli.refusals import UserError
from launch.record.open_trackers import open_all
from launch.record.restarts import Restart
from launch.record.tracking import JsonlTracker, RunInfo, Sample

SAMPLE = Sample("2+2?", "it is 4", "4", "4", 1.0, 4, 0.5, 2.0)


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo("test", tmp_path / "run", {"seed": 3}, 2)


class RefusedError(Exception):
    """Of a kind that only a tracker's client knows."""


class Recorder:
    """A tracker of a user, which notes its calls and knows nothing of states."""

    def __init__(self, name, events, fails_at=(), error=OSError):
        self.name, self.events, self.fails_at, self.error = name, events, fails_at, error

    def _note(self, event):
        self.events.append(f"{self.name} {event}")
        if event.startswith(tuple(self.fails_at)):
            raise self.error(self.name)

    def open(self, run):
        self._note("open")
        return self

    def log(self, step, metrics):
        self._note(f"log {step} {dict(metrics)}")

    def samples(self, step, rows):
        self._note(f"samples {step} {len(rows)}")

    def close(self, summary):
        self._note(f"close {dict(summary)}")


class Stateful(Recorder):
    """One that has a state, and remembers what it was opened with."""

    state = None

    def open(self, run):
        self.opened = run
        return super().open(run)

    def state_dict(self):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


def test_every_call_is_handed_on_in_order_and_the_last_is_closed_first(run, capsys):
    events: list[str] = []
    tracker = open_all({"a": Recorder("a", events), "b": Recorder("b", events)}, run)
    tracker.log(1, {"x": 1.0})
    tracker.samples(1, [SAMPLE])
    tracker.close({"done": 1})
    assert events == [
        "a open",
        "b open",
        "a log 1 {'x': 1.0}",
        "b log 1 {'x': 1.0}",
        "a samples 1 1",
        "b samples 1 1",
        "b close {'done': 1}",
        "a close {'done': 1}",
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError, AttributeError])
def test_a_tracker_that_fails_is_told_of_once_and_ends_nothing(run, capsys, error):
    events: list[str] = []
    broken = Recorder("a", events, ("log 2", "log 3", "samples 3", "close"), error)
    tracker = open_all({"mine": broken, "b": Recorder("b", events)}, run)
    for step in range(1, 5):
        tracker.log(step, {})
        tracker.samples(step, [])
    tracker.close({})
    assert [event for event in events if event.startswith("a")][1:] == [
        event.replace("b", "a", 1) for event in events if event.startswith("b")
    ][1:]
    text = capsys.readouterr().err.splitlines()
    said = "a" if error in (OSError, ValueError) else f"{error.__name__}: a"
    assert text == [
        f"tracker.mine failed in log at step 2 ({said}); the run goes on, and the tracker is "
        "called again at every step",
        f"tracker.mine failed at its end ({said}); the run is not affected",
        "tracker.mine failed 3 times from step 2 on",
    ]


def test_an_interrupt_is_no_failure_of_a_tracker(run):
    events: list[str] = []
    plugs = {"a": Recorder("a", events), "b": Recorder("b", events, ("close",), KeyboardInterrupt)}
    tracker = open_all(plugs, run)
    with pytest.raises(KeyboardInterrupt):
        tracker.close({})
    assert events[2:] == ["b close {}", "a close {}"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "Disk full", "/a/b"), "tracker.b cannot be opened (Disk full: /a/b)"),
        (ValueError("no account"), "tracker.b cannot be opened (no account)"),
        (ValueError("tracker.wandb.mode is bad"), "tracker.wandb.mode is bad"),
        (
            RefusedError("no server\nanswers"),
            "tracker.b cannot be opened, it raised RefusedError: no server "
            "answers; leave it out with ~tracker.b",
        ),
    ],
)
def test_a_failed_open_closes_what_was_open_and_is_a_sentence(run, error, said):
    events: list[str] = []
    plugs = {
        "a": Recorder("a", events),
        "b": Recorder("b", events, ("open",), lambda _: error),
    }
    with pytest.raises(UserError) as refusal:
        open_all(plugs, run)
    assert re.sub(r" \(\S+\.py:\d+\)", "", str(refusal.value)) == said
    assert events == ["a open", "b open", "a close {}"]


def test_no_trackers_is_a_choice(run):
    tracker = open_all({}, run)
    tracker.log(1, {})
    assert tracker.state_dict() == {}
    tracker.close({})


def test_each_gets_its_own_state_and_one_without_is_opened_without(run):
    events: list[str] = []
    plugs = {name: Stateful(name, events) for name in "abc"} | {"user": Recorder("user", events)}
    plugs["a"].state, plugs["b"].state, plugs["c"].state = {"id": "x", "places": [1, 2.5]}, {}, None
    tracker = open_all(plugs, run)
    assert all(plugs[name].opened.state == {} for name in "abc")
    states = json.loads(json.dumps(tracker.state_dict(), allow_nan=False))
    assert states == {"a": {"id": "x", "places": [1, 2.5]}}
    restarts = [Restart(1, 0, 1.0, "")]
    again = RunInfo("test", run.run_dir, {}, 2, first_step=1, restarts=restarts)
    open_all(plugs, again, {**states, "gone": {"id": 1}})
    assert plugs["a"].opened.state == states["a"] and plugs["b"].opened.state == {}
    assert plugs["a"].opened.first_step == 1 and plugs["a"].opened.restarts == restarts


@pytest.mark.parametrize("state", [{"x": float("nan")}, {"x": object()}, RuntimeError("broken")])
def test_a_state_that_cannot_be_kept_is_told_and_keeps_no_checkpoint_from_being_made(
    run, capsys, state
):
    events: list[str] = []
    plugs = {"a": Stateful("a", events), "b": Stateful("b", events)}
    plugs["a"].state, plugs["b"].state = state, {"id": 1}
    tracker = open_all(plugs, run)
    assert tracker.state_dict() == {"b": {"id": 1}}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracker.a gave no state of strict JSON (")


def test_a_full_disk_is_told_with_the_file_and_the_lines_come_later(run, full_at, capsys):
    tracker = open_all({"jsonl": JsonlTracker()}, run)
    tracker.log(1, {})
    full_at(60)
    for step in (2, 3, 4):
        tracker.log(step, {})
    full_at(10_000)
    tracker.log(5, {})
    tracker.close({})
    found = (run.run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in found] == [1, 2, 3, 4, 5]
    first, last = capsys.readouterr().err.splitlines()
    path = run.run_dir / "metrics.jsonl"
    assert first.startswith(f"tracker.jsonl failed in log at step 2 (File too large: {path}); the")
    assert last == "tracker.jsonl failed 3 times from step 2 on"


class Printed:
    """One that can take metrics and nothing else."""

    def __init__(self):
        self.logged = []

    def open(self, run):
        return self

    def log(self, step, metrics):
        self.logged.append(step)


def test_what_a_tracker_lacks_is_told_and_ends_no_run(run, capsys):
    tracker = Printed()
    trackers = open_all({"mine": tracker}, run)
    trackers.log(1, {"loop/wait_seconds": 0.1})
    trackers.samples(1, [SAMPLE])
    trackers.close({})
    assert tracker.logged == [1]
    told = capsys.readouterr().err
    assert "tracker.mine failed in samples at step 1" in told and "no attribute 'close'" in told
