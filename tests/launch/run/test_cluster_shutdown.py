"""What is ended with a cluster and what is not, without Ray."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from launch.run.cluster_shutdown import in_time, kill_cluster
from rollout.processes import look

IDLE = "import time; print('ready', flush=True); time.sleep(100)"


@pytest.fixture
def start():
    started = []

    def run(**variables):
        process = subprocess.Popen(
            [sys.executable, "-c", IDLE],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_a_raylet_started_is_ended_with_it_and_nothing_else(start):
    raylet = start()
    ours = f"{raylet.pid}"
    actor, engine = start(RAY_RAYLET_PID=ours), start(RAY_RAYLET_PID=ours)
    others = start(RAY_RAYLET_PID=ours + "0"), start(OTHER=ours), start()
    engine.send_signal(signal.SIGSTOP)
    left = Path(f"/dev/shm/sem.loky-{actor.pid}-test")
    left.touch()
    engines = [Path(tempfile.mkdtemp(prefix=f"engine-{pid}-")) for pid in (raylet.pid, actor.pid)]
    (engines[0] / "socket").touch()
    agent = start()
    kill_cluster(raylet.pid, [look(raylet.pid), replace(look(agent.pid), started=0)])
    assert not left.exists()
    assert [folder.exists() for folder in engines] == [False, True]
    engines[1].rmdir()
    for process in (raylet, actor, engine):
        assert process.wait(30) == -signal.SIGKILL
    # Another process may have the number of one that was seen.
    assert all(process.poll() is None for process in (agent, *others))


def test_of_a_cluster_that_was_joined_nothing_is_ended(start):
    actor = start(RAY_RAYLET_PID="1")
    kill_cluster(0, [look(actor.pid)])
    assert actor.poll() is None


def test_a_call_that_never_returns_is_given_up():
    never, begun = threading.Event(), threading.Event()

    def call():
        begun.set()
        never.wait()

    assert not in_time(0.1, call)
    assert begun.is_set()
    never.set()
    assert in_time(30, lambda: None)
