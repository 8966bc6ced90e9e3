"""Heartbeats, with processes that call themselves as an engine's do."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rollout.heartbeat import EngineProcesses, take_heartbeat
from rollout.processes import look, pid_space

ENGINE = """
import sys, time
from setproctitle import setproctitle
setproctitle("VLLM::EngineCore")
print("ready", flush=True)
time.sleep(100)
"""


@pytest.fixture
def engines():
    started = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
    for process in started:
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_actor_says_who_it_is_and_what_is_wrong():
    heartbeat = take_heartbeat(SimpleNamespace(fault=lambda seconds: f"bad for {seconds}"), 30)
    own = look(os.getpid())
    assert (heartbeat.pid, heartbeat.started, heartbeat.space) == (
        own.pid,
        own.started,
        pid_space(),
    )
    assert heartbeat.fault == "bad for 30"
    assert take_heartbeat(SimpleNamespace(), 30).fault == ""


@pytest.mark.parametrize("complete", [False, True])
def test_an_engine_without_one_of_its_processes_is_of_no_use(engines, complete):
    watched = EngineProcesses()
    if complete:
        watched.complete()
    assert watched.fault(30, now=0.0) == ""
    engines[1].kill()
    wait_for(lambda: look(engines[1].pid) is None)
    assert watched.fault(math.inf, now=1.0) == (
        f"is of no use: its engine process {engines[1].pid} is gone"
    )


def test_a_process_that_is_stopped_is_waited_for_and_then_makes_it_useless(engines):
    watched = EngineProcesses()
    watched.complete()
    engines[0].send_signal(signal.SIGSTOP)
    wait_for(lambda: look(engines[0].pid).stopped)
    assert watched.fault(30, now=0.0) == watched.fault(30, now=29.0) == ""
    engines[0].send_signal(signal.SIGCONT)
    wait_for(lambda: not look(engines[0].pid).stopped)
    assert watched.fault(30, now=31.0) == ""
    engines[0].send_signal(signal.SIGSTOP)
    wait_for(lambda: look(engines[0].pid).stopped)
    assert watched.fault(30, now=40.0) == watched.fault(30, now=69.0) == ""
    assert watched.fault(30, now=70.0) == (
        f"is of no use: its engine process {engines[0].pid} is stopped"
    )


def test_a_process_that_cannot_write_its_title_is_one_of_the_engines_too():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
    process.start()
    try:
        watched = EngineProcesses()
        watched.complete()
        assert watched.pids == [process.pid]
    finally:
        process.kill()
        process.join()


PARENT = """
import os, sys, time
from setproctitle import setproctitle
setproctitle("VLLM::EngineCore")
child = os.fork()
if child:
    print(child, flush=True)
    os.waitpid(child, 0)
time.sleep(100)
"""


def test_what_an_engines_process_is_about_to_start_is_no_part_of_the_engine():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            child = int(process.stdout.readline())
            watched = EngineProcesses()
            watched.complete()
            assert watched.pids == [process.pid]
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: look(child) is None)
            assert watched.fault(30, now=0.0) == ""
        finally:
            process.kill()


HOLDER = """
import sys, time
from multiprocessing.shared_memory import SharedMemory
from setproctitle import setproctitle
setproctitle("VLLM::Worker")
block = SharedMemory(create=True, size=4096)
print(block.name, flush=True)
sys.stdin.readline()
block.close()
block.unlink()
"""


@pytest.fixture
def holder():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, Path("/dev/shm") / process.stdout.readline().strip().lstrip("/")
    process.kill()
    process.communicate()


def test_shared_memory_has_no_name_once_the_engine_is_up_so_that_none_is_left(holder):
    process, path = holder
    assert path.exists()
    watched = EngineProcesses()
    watched.complete()
    assert not path.exists()
    process.kill()
    process.wait()
    assert not path.exists()
