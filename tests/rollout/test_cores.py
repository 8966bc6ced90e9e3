"""Cores of one's own, with threads of processes that compute."""

import os
import subprocess
import sys
import time
import uuid

import pytest

from rollout.cores import LOOK_SECONDS, OwnCores
from rollout.processes import PROC

AVAILABLE = os.sched_getaffinity(0)
COMPUTES = "while True: pass"

pytestmark = pytest.mark.skipif(len(AVAILABLE) < 2, reason="needs two cores")


@pytest.fixture
def process():
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield started.pid
    started.kill()
    started.wait()


@pytest.fixture
def name():
    return f"test {uuid.uuid4()}"


@pytest.fixture
def own(name):
    made = []

    def make(count, proc=PROC):
        made.append(OwnCores(count, name, proc))
        return made[-1]

    yield make
    for one in made:
        one.free()


def stat_of(tmp_path, pid, ran, waited):
    """Have the system say how many seconds a thread ran and waited."""
    folder = tmp_path / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "schedstat").write_text(f"{int(ran * 1e9)} {int(waited * 1e9)} 7\n")
    return tmp_path


def test_no_two_keep_to_one_core_and_what_a_process_held_is_free_when_it_dies(process, own, name):
    cores = own(1).keep(process)
    assert len(cores) == 1
    assert os.sched_getaffinity(process) == cores
    holder = (
        f"import sys, os; from rollout.cores import OwnCores; own = OwnCores(1, {name!r}); "
        "print(*own.keep(os.getpid()), flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = {int(core) for core in other.stdout.readline().split()}
        assert len(theirs) == 1
        assert not theirs & cores
        other.kill()
    os.sched_setaffinity(process, AVAILABLE)
    freed = own(1).keep(process)
    assert freed
    assert not freed & cores


def test_with_too_few_cores_free_nobody_is_moved_and_none_is_held(process, own):
    assert own(len(AVAILABLE)).keep(process) == set()
    first = own(1)
    assert first.keep(process)
    os.sched_setaffinity(process, AVAILABLE)
    others = len(AVAILABLE) - 1
    held = set()
    for _ in range(others):
        cores = own(1).keep(process)
        assert cores.isdisjoint(held)
        held |= cores
        os.sched_setaffinity(process, AVAILABLE)
    assert len(held) == others
    assert own(1).keep(process) == set()
    assert os.sched_getaffinity(process) == AVAILABLE
    first.free()
    freed = own(1).keep(process)
    assert freed
    assert not freed & held


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), PermissionError(1, "no")])
def test_a_thread_that_may_not_be_moved_back_stays_where_it_is_and_its_core_is_free(
    process, own, tmp_path, monkeypatch, error
):
    kept = own(1, stat_of(tmp_path, process, ran=5, waited=5))
    cores = kept.keep(process)

    def refuse(*_):
        raise error

    stat_of(tmp_path, process, ran=5, waited=5 + 2 * LOOK_SECONDS)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert not kept.look()
    monkeypatch.undo()
    assert os.sched_getaffinity(process) == cores
    os.sched_setaffinity(process, AVAILABLE)
    assert own(1).keep(process) == cores


@pytest.mark.parametrize(("waited", "keeps"), [(0.3, True), (0.6, False)])
def test_a_thread_that_waits_for_its_core_runs_anywhere_again(
    process, own, tmp_path, waited, keeps
):
    kept = own(1, stat_of(tmp_path, process, ran=5, waited=5))
    cores = kept.keep(process)
    assert kept.look()
    # Too little to judge by, though it did nothing but wait.
    stat_of(tmp_path, process, ran=5, waited=5 + 0.9 * LOOK_SECONDS)
    assert kept.look()
    stat_of(tmp_path, process, ran=5 + 1.2, waited=5 + waited)
    assert kept.look() == keeps
    assert os.sched_getaffinity(process) == (cores if keeps else AVAILABLE)
    # What is given up is there for the next.
    os.sched_setaffinity(process, AVAILABLE)
    assert (own(1).keep(process) == cores) != keeps


def test_cores_that_somebody_gave_a_thread_since_stay_its_own(process, own, tmp_path):
    kept = own(1, stat_of(tmp_path, process, 0, 0))
    others = AVAILABLE - kept.keep(process)
    os.sched_setaffinity(process, others)
    stat_of(tmp_path, process, 0, 9)
    assert not kept.look()
    assert os.sched_getaffinity(process) == others


def test_the_system_says_of_two_that_compute_on_one_core_that_they_wait(own):
    computing = [subprocess.Popen([sys.executable, "-c", COMPUTES]) for _ in range(2)]
    try:
        kept = own(1)
        cores = kept.keep(computing[0].pid)
        os.sched_setaffinity(computing[1].pid, cores)
        deadline = time.monotonic() + 60
        while kept.look():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert os.sched_getaffinity(computing[0].pid) == AVAILABLE
    finally:
        for process in computing:
            process.kill()
            process.wait()


def test_where_nothing_is_said_of_waiting_nothing_is_held(process, own, tmp_path):
    assert own(1, tmp_path).keep(process) == set()
    assert os.sched_getaffinity(process) == AVAILABLE


def test_where_threads_may_not_be_moved_nothing_is_held(process, own, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as context:
        context.setattr(os, "sched_setaffinity", refuse)
        refused = own(1)
        assert refused.keep(process) == set()
        assert not refused.look()
    held = [own(1) for _ in AVAILABLE]
    for each in held:
        assert each.keep(process)
        os.sched_setaffinity(process, AVAILABLE)


def test_a_thread_that_is_gone_is_left_alone(own, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", COMPUTES])
    kept = own(1, stat_of(tmp_path, ended.pid, 0, 0))
    assert kept.keep(ended.pid)
    ended.kill()
    ended.wait()
    stat_of(tmp_path, ended.pid, 0, 9)
    assert not kept.look()
    assert own(1).keep(999_999_999) == set()
