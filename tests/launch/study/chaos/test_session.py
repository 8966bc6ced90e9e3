"""Only what a trial started is of it; what ends late or never is told apart."""

import os
import subprocess
import sys

import numpy as np
import pytest

from launch.study.chaos.session import VARIABLE, Session

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
REWARD = "rollout.rewards.child"


@pytest.fixture
def start():
    """Start a process that waits, titled like a reward's, with a mark of its own or none."""
    started = []

    def begin(folder):
        environment = {**os.environ, **({VARIABLE: str(folder)} if folder else {})}
        code = "print(flush=True); import sys; sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "-m", REWARD, "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_session_sees_and_ends_its_own_processes_alone(tmp_path, start):
    own, other, stranger = start(tmp_path / "a"), start(tmp_path / "b"), start(None)
    session = Session(tmp_path / "a")
    assert [process.pid for process in session.processes()] == [own.pid]
    assert session.find("reward", os.getpid(), np.random.default_rng(0)) is not None
    assert [left.split()[0] for left in session.leftovers(0.0)] == [str(own.pid)]
    session.end()
    assert own.wait(timeout=10) == -9
    assert session.leftovers(0.0) == []
    assert other.poll() is None
    assert stranger.poll() is None


def test_shared_memory_that_stays_is_left_over_until_the_end(tmp_path):
    session, block = Session(tmp_path), tmp_path / "psm_1"
    session.blocks = {block, tmp_path / "psm_gone"}
    block.write_bytes(b"")
    assert session.leftovers(0.0) == [str(block)]
    session.end()
    assert not block.exists()
