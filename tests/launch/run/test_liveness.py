"""When silence is death: laws over all sequences of looks, and what is seen of real processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.run.liveness import IDLE_FACTOR, UNSEEN_FACTOR, Liveness, ProcessObserver, Seen
from rollout.heartbeat import Heartbeat, take_heartbeat

LIMIT, PERIOD = 30.0, 5.0
looks = st.lists(st.sampled_from(list(Seen)), max_size=60)


def verdicts(seen):
    liveness = Liveness(LIMIT)
    return [liveness.look(PERIOD, one) for one in seen]


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        (Seen.STOPPED, LIMIT),
        (Seen.IDLE, LIMIT * IDLE_FACTOR),
        (Seen.NOTHING, LIMIT * UNSEEN_FACTOR),
    ],
)
def test_what_is_silent_dies_after_its_time_and_not_before(seen, seconds):
    found = verdicts([seen] * int(seconds / PERIOD))
    assert not any(found[:-1])
    assert found[-1] == f"does not answer for {seconds:.0f} s: its process {seen.value}"


@given(st.integers(1, 200))
def test_what_is_at_work_never_dies(number):
    assert not any(verdicts([Seen.AT_WORK] * number))


@given(looks, st.integers(1, 20))
def test_one_look_at_work_pardons_what_was_idle_or_stopped_before(before, number):
    seen = [one for one in before if one is not Seen.GONE]
    liveness = Liveness(LIMIT)
    for one in [*seen, Seen.AT_WORK]:
        liveness.look(PERIOD, one)
    stopped = [liveness.look(PERIOD, Seen.STOPPED) for _ in range(number)]
    assert any(stopped) == (number * PERIOD >= LIMIT)


@given(looks)
def test_an_answer_pardons_everything(before):
    liveness = Liveness(LIMIT)
    for one in before:
        liveness.look(PERIOD, one)
    liveness.answered()
    assert liveness.silent_seconds == 0
    assert not liveness.look(PERIOD, Seen.STOPPED)


@given(looks)
def test_what_is_gone_is_dead_at_once_and_nothing_before_the_least_time(seen):
    found = verdicts(seen)
    for number, (one, how) in enumerate(zip(seen, found, strict=True), start=1):
        if one is Seen.GONE:
            assert how == "died"
        elif how:
            assert number * PERIOD >= LIMIT


@pytest.fixture
def process():
    started = []

    def start(code):
        arguments = [sys.executable, "-c", f"print('ready', flush=True)\n{code}"]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


def sign_of(pid):
    from rollout.processes import look

    return replace(take_heartbeat(None, 30), pid=pid, started=look(pid).started)


def test_the_eye_tells_work_from_sleep_from_a_stop_from_an_end(process):
    busy, idle = process("while True: pass"), process("import time; time.sleep(100)")
    heartbeats = {one.pid: sign_of(one.pid) for one in (busy, idle)}
    observers = {pid: ProcessObserver() for pid in heartbeats}
    for pid, heartbeat in heartbeats.items():
        assert observers[pid].see(heartbeat, 1.0) is Seen.AT_WORK, "one look says nothing"
    time.sleep(0.3)
    assert observers[busy.pid].see(heartbeats[busy.pid], 0.3) is Seen.AT_WORK
    assert observers[idle.pid].see(heartbeats[idle.pid], 1.0) is Seen.IDLE
    busy.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while observers[busy.pid].see(heartbeats[busy.pid], 0.1) is not Seen.STOPPED:
        assert time.monotonic() < deadline
    busy.kill()
    while observers[busy.pid].see(heartbeats[busy.pid], 0.1) is not Seen.GONE:
        assert time.monotonic() < deadline


def test_what_is_elsewhere_is_not_seen_and_another_process_with_the_id_is_not_taken_for_it():
    here = take_heartbeat(None, 30)
    assert ProcessObserver().see(None, 1.0) is Seen.NOTHING
    assert ProcessObserver().see(replace(here, space="elsewhere"), 1.0) is Seen.NOTHING
    assert ProcessObserver().see(replace(here, space=""), 1.0) is Seen.NOTHING
    assert ProcessObserver().see(here, 1.0) is Seen.AT_WORK
    assert (
        ProcessObserver().see(Heartbeat(os.getpid(), here.started - 1, here.space, ""), 1.0)
        is Seen.GONE
    )
