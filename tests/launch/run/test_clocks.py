"""Seconds by batch, on a clock that the tests set."""

import asyncio
import json

import pytest

from launch.run.clocks import GenerationClock, LearnerClock
from launch.study.simulation.clock import run


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


def test_calls_that_learners_answer_one_after_the_other_add_up_to_their_work():
    async def answer(seconds, value):
        await asyncio.sleep(seconds)
        return value

    async def main():
        clock = LearnerClock()
        # Asked at 0, 1 and 2; the second waits until 5 for the first, and the third for both.
        first = asyncio.create_task(clock.of(answer(5, "norms")))
        await asyncio.sleep(1)
        second = asyncio.create_task(clock.of(answer(6, "update")))
        await asyncio.sleep(1)
        third = asyncio.create_task(clock.of(answer(9, "norms")))
        found = [await first, await second, await third]
        await asyncio.sleep(20)
        return [*found, await clock.of(answer(3, "update"))]

    assert run(main()) == [("norms", 5), ("update", 2), ("norms", 4), ("update", 3)]


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
