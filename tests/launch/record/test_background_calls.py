"""Calls are made in order beside their caller; nobody waits for long, and failures are told."""

import threading

import pytest

from launch.record.background_calls import BackgroundCalls


def test_calls_are_made_in_order_by_the_end():
    made: list[int] = []
    sending = BackgroundCalls()
    for number in range(20):
        sending.put(lambda number=number: made.append(number))
    sending.close()
    assert made == list(range(20))


def test_a_failure_is_raised_by_the_next_call_which_is_made_nonetheless():
    made: list[str] = []
    failed = threading.Event()
    sending = BackgroundCalls()

    def fail() -> None:
        failed.set()
        raise RuntimeError("refused")

    sending.put(fail)
    assert failed.wait(10)
    # The failure is noted just after it was raised.
    with pytest.raises(RuntimeError, match="refused"):
        sending.put(lambda: made.append("second"))
        sending.close()
    sending.close()
    assert made == ["second"]


def test_what_does_not_end_is_waited_for_only_so_long_and_what_comes_behind_it_is_left_out():
    made: list[str] = []
    begun, answer = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        answer.wait()

    sending = BackgroundCalls(most_waiting=1)
    sending.put(call)
    assert begun.wait(10)
    sending.put(lambda: made.append("waits"))
    with pytest.raises(TimeoutError, match="1 calls wait"):
        sending.put(lambda: made.append("too many"))
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 seconds"):
        sending.close(0.05)
    answer.set()
    sending._thread.join(10)
    assert made == []
