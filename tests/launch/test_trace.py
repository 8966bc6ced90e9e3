"""A run's steps on the clock: a valid Chrome trace, measured durations, one sentence if refused."""

import itertools
import json

import pytest

from launch.program import UserError
from launch.trace import LANES, LOOP, run, step_slices
from tests.launch.programs import call
from tests.launch.record.run_folders import write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", num_steps=5)


def traced(folder, step=None):
    return json.loads(run(folder, step).read_text())


def record(step, time, wait, update, publish, generate, **more):
    parts = {"wait": wait, "update": update, "publish": publish, "generate": generate}
    return {
        "step": step,
        "time": time,
        **{f"loop/{part}_seconds": seconds for part, seconds in parts.items()},
        **{key.replace("__", "/"): value for key, value in more.items()},
    }


def slices(found, lane=LOOP):
    return [(s.step, s.name, s.start, s.start + s.seconds) for s in found if s.lane == lane]


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


def test_parts_take_turns_and_end_when_the_step_is_logged():
    found = step_slices(
        [
            record(1, 10.0, 4, 3, 1, 4, evaluation__seconds=2.0, evaluation__version=1),
            record(2, 16.0, 1, 3, 1, 5),
        ]
    )
    assert slices(found) == [
        (1, "wait", 0, 4), (1, "update", 4, 7), (1, "publish", 7, 8), (1, "evaluate", 8, 10),
        (2, "save and log", 10, 11), (2, "wait", 11, 12), (2, "update", 12, 15),
        (2, "publish", 15, 16),
    ]  # fmt: skip
    # The second batch is generated from the first publish on, beside the evaluation.
    assert slices(found, "engines") == [(1, "generate", 0, 4), (2, "generate", 8, 13)]


def test_what_is_inside_lies_inside():
    (first, *_) = found = step_slices(
        [record(1, 8.0, 4, 3, 1, 4, learner__update_seconds=2.5, publish__seconds=0.25)]
    )
    assert first.name == "wait"
    assert slices(found, "inside") == [
        (1, "last pass", 4.5, 7),
        (1, "transfer", 7, 7.25),
        (1, "parity and rest", 7.25, 8),
    ]


def test_an_evaluation_in_the_background_takes_no_turn():
    found = step_slices([record(5, 8.0, 4, 3, 1, 4, evaluation__seconds=60, evaluation__version=2)])
    assert [name for _, name, *_ in slices(found)] == ["wait", "update", "publish"]


def test_slices_of_a_lane_never_overlap_even_if_clocks_disagree():
    found = step_slices([record(1, 8.0, 4, 3, 1, 9), record(2, 8.5, 1, 3, 1, 6)])
    for lane in LANES:
        ends = slices(found, lane)
        assert all(a[3] <= b[2] for a, b in itertools.pairwise(ends))


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
        (None, "RUN must be a folder of launch.train with metrics.jsonl"),
        ("", "has no steps"),
        ('{"step": 1, "ti', "metrics.jsonl:1 is no record of a step"),
        ("[1]", "metrics.jsonl:1 is no record of a step"),
        ('{"step": 1, "time": 1.0}', "metrics.jsonl:1 lacks loop/wait_seconds"),
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
