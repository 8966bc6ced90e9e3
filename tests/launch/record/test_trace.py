"""A run's steps on the clock: measured durations, lanes that do not overlap."""

import itertools
import json

from launch.record.restarts import Restart
from launch.record.trace import LANES, LOOP, RESTART, step_slices, trace, write_trace


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


def sample(step, *turns):
    """A response of turns (tokens, seconds of its tool), each followed by the environment's."""
    found = []
    for tokens, seconds in turns:
        own = {"trained": True, "text": "a", "num_tokens": tokens, "seconds": seconds}
        told = {"trained": False, "text": "b", "num_tokens": 5, "seconds": 0.0}
        found.append(own | {"calls": 1, "failed_calls": 0})
        found.append(told | {"calls": 0, "failed_calls": 0})
    return {"step": step, "turns": found}


def test_tools_have_a_lane_a_response_within_the_engines_slice():
    samples = [sample(1, (10, 0.5), (30, 0.5)), sample(1), sample(1, (1, 0.0), (1, 2.0))]
    found = step_slices([record(1, 8.0, 4, 3, 1, 4)], samples=samples)
    # Three seconds are left to generate 10 and 30 tokens in.
    assert slices(found, "tools of response 0") == [
        (1, "tool, turn 0", 0.75, 1.25), (1, "tool, turn 1", 3.5, 4.0)
    ]  # fmt: skip
    assert slices(found, "tools of response 1") == []
    # No time was waited after the first turn.
    assert slices(found, "tools of response 2") == [(1, "tool, turn 1", 2.0, 4.0)]
    drawn = trace(found, "run")["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in drawn if e["name"] == "thread_name"}
    assert names == {
        1: "loop", 2: "engines", 3: "inside", 4: "tools of response 0", 5: "tools of response 2",
    }  # fmt: skip
    (first, *_) = (e for e in drawn if e["name"] == "tool, turn 0")
    assert (first["tid"], first["dur"]) == (4, 0.5e6) and first["args"]["calls"] == 1
    assert step_slices([record(1, 8.0, 4, 3, 1, 4)], samples=[sample(2, (1, 1.0))]) == step_slices(
        [record(1, 8.0, 4, 3, 1, 4)]
    )


def test_of_several_groups_of_a_step_the_first_has_lanes():
    rows = [sample(step, (10, 0.5)) | {"prompt": p} for step in (1, 2) for p in ("a", "a", "b")]
    found = step_slices([record(1, 8.0, 4, 3, 1, 4), record(2, 16.0, 4, 3, 1, 4)], samples=rows)
    lanes = {each.lane for each in found if each.lane.startswith("tools")}
    assert lanes == {"tools of response 0", "tools of response 1"}


def test_a_run_folder_gives_its_tools(tmp_path):
    lines = {"metrics.jsonl": record(1, 8.0, 4, 3, 1, 4), "samples.jsonl": sample(1, (5, 1.5))}
    for name, line in lines.items():
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    (tmp_path / "config.yaml").write_text("name: run\n")
    drawn = json.loads(write_trace(tmp_path).read_text())["traceEvents"]
    assert [e["dur"] for e in drawn if e["name"] == "tool, turn 0"] == [1.5e6]


def test_an_evaluation_in_the_background_takes_no_turn():
    found = step_slices([record(5, 8.0, 4, 3, 1, 4, evaluation__seconds=60, evaluation__version=2)])
    assert [name for _, name, *_ in slices(found)] == ["wait", "update", "publish"]


def test_slices_of_a_lane_never_overlap_even_if_clocks_disagree():
    found = step_slices([record(1, 8.0, 4, 3, 1, 9), record(2, 8.5, 1, 3, 1, 6)])
    for lane in LANES:
        ends = slices(found, lane)
        assert all(a[3] <= b[2] for a, b in itertools.pairwise(ends))


def test_a_run_that_went_on_is_in_one_piece_with_a_mark():
    """Steps 3 and 4 were lost; the run went on 1000 seconds later."""
    taken = [record(1, 8.0, 4, 3, 1, 4), record(2, 16.5, 4, 3, 1, 9), record(3, 24.5, 4, 3, 1, 4)]
    whole = step_slices(taken)
    taken[2]["time"] += 1000
    taken.append(record(4, 1033.5, 4, 3, 1, 4))
    restarts = [Restart(2, 0, 900.0, "no cluster"), Restart(2, 2, 1000.0, "resumed after SIGTERM")]
    found = step_slices(taken, restarts)
    of_first = [each for each in found if each.step < 4 and each.name != RESTART]
    assert slices(of_first) == slices(whole)
    (mark,) = (each for each in found if each.name == RESTART)
    assert (mark.step, mark.start, mark.seconds) == (3, 16.5, 0)
    assert mark.args == {"why": "no cluster; resumed after SIGTERM"}
    # The second clock goes on as it was; what a batch of the first start had begun is lost.
    assert slices(found)[-1] == (4, "publish", 32.5, 33.5)
    assert slices(found)[-4] == (4, "save and log", 24.5, 25.5)
    assert slices(found, "engines")[2] == (3, "generate", 17, 21)
    for lane in LANES:
        assert all(a[3] <= b[2] for a, b in itertools.pairwise(slices(found, lane)))
    (event,) = (e for e in trace(found, "run")["traceEvents"] if e["name"] == RESTART)
    assert event["ph"] == "i" and event["ts"] == 16.5e6 and "dur" not in event


def test_a_restart_before_the_first_step_or_after_the_last_leaves_nothing_out():
    taken = [record(1, 8.0, 4, 3, 1, 4), record(2, 16.0, 4, 3, 1, 4)]
    ends = [Restart(0, 0, 1.0, ""), Restart(2, 3, 30.0, "")]
    assert step_slices(taken, ends) == step_slices(taken)
