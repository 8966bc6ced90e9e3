"""A cluster's processes and its answers, without Ray."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from launch.run import cluster_watch
from launch.run.cluster_watch import AnswersOf, ClusterWatch, ProcessesOf
from rollout.processes import look

LIMIT = 30.0


@pytest.fixture
def processes():
    code = "import time; print('ready', flush=True); time.sleep(100)"
    started = {}
    for name in ("gcs_server", "raylet"):
        arguments = [sys.executable, "-c", code]
        started[name] = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    for process in started.values():
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started.values():
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_process_that_is_gone_is_named_at_the_next_look(processes, name):
    cluster = ProcessesOf({name: process.pid for name, process in processes.items()})
    assert cluster.look(1.0, LIMIT) == ""
    processes[name].kill()
    wait_for(lambda: look(processes[name].pid) is None)
    assert cluster.look(1.0, LIMIT) == f"died: its {name} is gone"


def test_a_process_that_is_stopped_is_waited_for_and_then_ended(processes):
    gcs = processes["gcs_server"]
    cluster = ProcessesOf({name: process.pid for name, process in processes.items()})
    gcs.send_signal(signal.SIGSTOP)
    wait_for(lambda: look(gcs.pid).stopped)
    assert cluster.look(29.0, LIMIT) == ""
    gcs.send_signal(signal.SIGCONT)
    wait_for(lambda: not look(gcs.pid).stopped)
    assert cluster.look(1.0, LIMIT) == ""
    gcs.send_signal(signal.SIGSTOP)
    wait_for(lambda: look(gcs.pid).stopped)
    assert cluster.look(29.0, LIMIT) == ""
    found = cluster.look(1.0, LIMIT)
    assert found == "does not answer for 30 s: its gcs_server is stopped"
    assert gcs.wait(30) == -signal.SIGKILL


def test_a_cluster_that_was_joined_must_connect_and_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answers = [True]

        def ask():
            if not answers[-1]:
                raise ConnectionError("no answer")

        cluster = AnswersOf(address, ask)
        assert cluster.look(1.0, LIMIT) == ""
        answers.append(False)
        assert cluster.look(20.0, LIMIT) == ""
        answers.append(True)
        assert cluster.look(20.0, LIMIT) == ""
    assert cluster.look(20.0, LIMIT) == ""
    assert cluster.look(20.0, LIMIT) == f"does not answer for 40 s: its GCS at {address}"


class Cluster:
    """Dies when it is told to."""

    how = ""

    def look(self, seconds, limit_seconds):
        return self.how


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cluster_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(cluster_watch, "END_SECONDS", 0.2)


def test_whoever_listens_hears_of_the_death_and_so_does_who_comes_late(quick, caplog):
    cluster, given_up, heard = Cluster(), threading.Event(), []
    watch = ClusterWatch(cluster, limit_seconds=LIMIT, logs="/logs", give_up=given_up.set)
    watch.listen(heard.append)
    cluster.how = "died: its raylet is gone"
    wait_for(lambda: heard)
    watch.listen(heard.append)
    assert [str(death) for death in heard] == [
        "cluster died: its raylet is gone; logs are in /logs"
    ] * 2
    assert str(watch.died) in caplog.text
    watch.close()
    assert not given_up.wait(0.5)


def test_a_program_that_does_not_end_after_it_is_ended(quick):
    cluster, given_up = Cluster(), threading.Event()
    cluster.how = "died: its raylet is gone"
    ClusterWatch(cluster, limit_seconds=LIMIT, logs="/logs", give_up=given_up.set)
    assert given_up.wait(30)


def test_a_watch_that_is_closed_sees_nothing(quick):
    cluster, heard = Cluster(), []
    watch = ClusterWatch(cluster, limit_seconds=LIMIT, logs="/logs", give_up=lambda: None)
    watch.listen(heard.append)
    watch.close()
    time.sleep(0.05)
    cluster.how = "died"
    time.sleep(0.1)
    assert heard == [] and watch.died is None
