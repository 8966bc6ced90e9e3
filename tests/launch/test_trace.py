"""The file is a valid Chrome trace, and what cannot be traced is refused in one sentence."""

import json

import pytest

from launch.cli.refusals import UserError
from launch.record.trace import LANES, write_trace
from tests.launch.programs import call
from tests.launch.record.run_folders import write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", num_steps=5)


def traced(folder, step=None):
    return json.loads(write_trace(folder, step).read_text())


def test_the_file_is_a_chrome_trace_in_microseconds(folder):
    content = traced(folder)
    named = {e["tid"]: e["args"]["name"] for e in content["traceEvents"] if "thread_n" in e["name"]}
    assert named == {number: lane for lane, number in LANES.items()}
    events = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert all({"name", "pid", "tid", "ts", "dur", "args"} <= event.keys() for event in events)
    assert min(event["ts"] for event in events) == 0
    waits = {e["args"]["step"]: e["dur"] for e in events if e["name"] == "wait"}
    assert waits[1] == 1.5e6 and waits[5] == 0.05e6
    assert {event["args"]["step"] for event in events} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_run_that_goes_on_may_be_writing_a_line(folder, name):
    with (folder / name).open("a") as file:
        file.write('{"step": 6, "ti')
    assert traced(folder)["traceEvents"]


def test_one_step_alone(folder):
    content = traced(folder, 3)
    steps = {e["args"]["step"] for e in content["traceEvents"] if e["ph"] == "X"}
    assert steps == {3} and (folder / "trace-3.json").is_file()


def test_nothing_is_overwritten(folder):
    traced(folder)
    before = (folder / "trace.json").read_bytes()
    with pytest.raises(UserError, match="out must be a new file"):
        traced(folder)
    assert (folder / "trace.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a run must be a folder of launch.train, .* it has no metrics.jsonl"),
        ("", "metrics.jsonl has no step"),
        ('{"step": 1, "ti', "metrics.jsonl has no step; the run ended before its first one"),
        ("[1]", "line 1 of metrics.jsonl has no step"),
        ('{"step": 1, "time": 1.0}', "line 1 of metrics.jsonl has no loop/generate_seconds"),
    ],
)
def test_a_run_that_cannot_be_traced_is_refused_in_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        traced(tmp_path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "trace.json").exists()


def test_a_step_that_was_not_taken_is_refused(folder):
    with pytest.raises(UserError, match=r"step must be a step of the run, 1 to 5, got 9"):
        traced(folder, 9)


def test_the_command_line_names_one_run(folder):
    done = call("launch.trace", str(folder), "step=2")
    assert done.status == 0 and (folder / "trace-2.json").is_file()
    for arguments in ([], [str(folder), str(folder)]):
        done = call("launch.trace", *arguments)
        assert done.status == 2
        assert done.err.startswith("error: runs must name one run folder, got [")
