"""A run's steps on the clock: measured durations, lanes that do not overlap."""

import itertools

from launch.record.trace import LANES, LOOP, step_slices


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


def test_an_evaluation_in_the_background_takes_no_turn():
    found = step_slices([record(5, 8.0, 4, 3, 1, 4, evaluation__seconds=60, evaluation__version=2)])
    assert [name for _, name, *_ in slices(found)] == ["wait", "update", "publish"]


def test_slices_of_a_lane_never_overlap_even_if_clocks_disagree():
    found = step_slices([record(1, 8.0, 4, 3, 1, 9), record(2, 8.5, 1, 3, 1, 6)])
    for lane in LANES:
        ends = slices(found, lane)
        assert all(a[3] <= b[2] for a, b in itertools.pairwise(ends))
