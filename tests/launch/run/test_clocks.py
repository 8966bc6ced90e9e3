"""Seconds by batch, on a clock that the tests set."""

import json

import pytest

from launch.run.clocks import GenerationClock


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_are_split_by_open_tickets_and_add_up():
    time = Time()
    clock = GenerationClock(time)
    time.now += 5  # nothing is open
    clock.begin(0, 1)
    time.now += 2
    clock.begin(1, 2)
    time.now += 3
    clock.end(1)
    clock.end(1)
    time.now += 1
    clock.end(0)
    clock.begin(1, 1)
    time.now += 4
    # A ticket may still run when its neighbour's seconds are asked for.
    assert clock.take(0) == pytest.approx(2 + 1 + 1)
    time.now += 2
    clock.end(1)
    assert clock.take(1) == pytest.approx(2 + 4 + 2)
    assert clock.take_total() == pytest.approx(2 + 3 + 1 + 4 + 2)
    assert clock.take(0) == clock.take(1) == clock.take_total() == 0


def test_tickets_end_one_by_one_and_a_round_without_any_opens_nothing():
    time = Time()
    clock = GenerationClock(time)
    clock.begin(0, 2)
    clock.begin(1, 1)
    time.now += 3
    clock.end(0)
    time.now += 2
    clock.end(0)
    clock.begin(0, 0)
    time.now += 4
    clock.end(1)
    time.now += 9
    assert clock.take(0) == pytest.approx(2 + 1)
    assert clock.take(1) == pytest.approx(1 + 1 + 4)
    assert clock.take_total() == pytest.approx(9)


def test_seconds_that_were_not_taken_go_on_after_a_stop():
    time = Time()
    clock = GenerationClock(time)
    clock.begin(3, 2)
    clock.begin(4, 2)
    time.now += 6
    clock.take_total()
    clock.end(3)
    time.now += 3
    state = json.loads(json.dumps(clock.state_dict()))
    time.now += 1000  # Stopped: nothing is open until tickets are run again.
    again = GenerationClock(time)
    again.load_state_dict(state)
    time.now += 5
    again.begin(4, 1)
    time.now += 2
    assert again.take(3) == pytest.approx(3 + 1) and again.take(4) == pytest.approx(3 + 2 + 2)
    assert again.take_total() == pytest.approx(3 + 2)
