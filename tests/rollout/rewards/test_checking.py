"""Checks that hang are given up, and nothing is left of the clock."""

import contextlib
import signal
import threading
import time

import pytest

from rollout.rewards.checking import limited


def hang(answer):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


def refuse(answer):
    raise ValueError(f"no number, got {answer!r}")


def test_a_check_that_hangs_is_given_up_with_the_answer():
    check = limited(hang, 0.05)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"check took longer than 0\.05 seconds, .*, got '42'"):
            check("42")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_what_a_check_says_in_time_holds():
    with pytest.raises(ValueError, match="no number, got '42'"):
        limited(refuse, 60.0)("42")
    assert limited(lambda answer: None, 60.0)("42") is None
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert limited(None, 60.0) is None


def test_in_another_thread_there_is_no_clock():
    found = []
    thread = threading.Thread(target=lambda: found.append(limited(refuse, 60.0)))
    thread.start()
    thread.join()
    assert found == [refuse]
