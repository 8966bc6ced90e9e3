"""What is read of real processes, and of a listing made by hand."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory as blocks
from pathlib import Path

import pytest

from rollout.processes import (
    belongs,
    command,
    descendants,
    every,
    look,
    pid_space,
    shared_memory,
    threads_at_work,
)

BUSY = "x = 0\nwhile True: x += 1"
IDLE = "import time; time.sleep(100)"


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def start():
    """Start Python with some code; ended with the test."""
    started = []

    def run(code, **options):
        process = subprocess.Popen([sys.executable, "-c", code], **options)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_process_that_works_and_one_that_sleeps_and_one_that_is_stopped(start):
    busy, idle = start(BUSY), start(IDLE)
    wait_for(lambda: look(busy.pid).cpu_seconds > 0.05 and threads_at_work(busy.pid))
    wait_for(lambda: look(idle.pid).state == "S" and not threads_at_work(idle.pid))
    busy.send_signal(signal.SIGSTOP)
    wait_for(lambda: look(busy.pid).stopped)
    used = look(busy.pid).cpu_seconds
    time.sleep(0.1)
    assert look(busy.pid).cpu_seconds == used
    assert not threads_at_work(busy.pid) and not look(idle.pid).stopped


def test_what_ended_is_not_there_whether_its_parent_knows_or_not(start):
    process = start("pass")
    wait_for(lambda: look(process.pid) is None)
    assert process.returncode is None, "nobody has collected it yet"
    process.wait()
    assert look(process.pid) is None and command(process.pid) == ""


def test_all_that_a_process_started_is_found_parents_first(start):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {IDLE!r}])"
    parent = start(code)
    wait_for(lambda: len(descendants(parent.pid)) == 1)
    (child,) = descendants(parent.pid)
    assert child.parent == parent.pid and command(child.pid).endswith(IDLE)
    ours = [process.pid for process in descendants(os.getpid())]
    assert ours.index(parent.pid) < ours.index(child.pid)
    assert {parent.pid, child.pid} <= {process.pid for process in every()}
    os.kill(child.pid, signal.SIGKILL)


def test_a_process_belongs_to_whom_its_environment_names(start):
    process = start(IDLE, env={**os.environ, "OWNER": "17"})
    wait_for(lambda: command(process.pid).endswith(IDLE))
    assert belongs(process.pid, "OWNER=17")
    assert not belongs(process.pid, "OWNER=1") and not belongs(os.getpid(), "OWNER=17")


def test_shared_memory_is_found_by_who_holds_it():
    block = blocks.SharedMemory(create=True, size=4096)
    path = Path("/dev/shm") / block.name.lstrip("/")
    try:
        assert path in shared_memory(os.getpid())
        assert path not in shared_memory(os.getppid())
        path.unlink()
        assert block.buf[0] == 0, "who holds it keeps it"
    finally:
        block.close()


def test_a_semaphore_is_found_by_the_name_that_others_open_it_by():
    lock = multiprocessing.get_context("forkserver").RLock()
    path = Path(f"/dev/shm/sem.{lock._semlock.name.lstrip('/')}")
    assert path in shared_memory(os.getpid())
    assert path not in shared_memory(os.getppid())


def test_names_with_spaces_and_brackets_move_no_field(tmp_path):
    folder = tmp_path / "12"
    folder.mkdir()
    fields = "T 7 12 12 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 98765 0 0"
    (folder / "stat").write_text(f"12 (ray::A) (b c) {fields}\n")
    process = look(12, tmp_path)
    assert (process.parent, process.state, process.started) == (7, "T", 98765)
    assert process.cpu_seconds == 200 / os.sysconf("SC_CLK_TCK")
    assert look(13, tmp_path) is None and descendants(7, tmp_path) == [process]


def test_ids_mean_the_same_where_the_space_is_the_same(start):
    assert pid_space() == pid_space() != ""
    code = "from rollout.processes import pid_space; print(pid_space())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == pid_space()
