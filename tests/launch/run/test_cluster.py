"""Clusters that are started here, without starting one."""

import inspect
import mmap
import os
import signal
import subprocess
from pathlib import Path

import pytest
import ray
from ray._private import node, services, utils, worker

from conf.resources import ResourcesConfig
from launch.cli.refusals import RunError, UserError
from launch.cli.signals import Interrupted, handled, interrupt
from launch.run import cluster
from launch.run.cluster import DEATH, leave_deaths_to_us
from launch.run.interruption import StoppedError


@pytest.fixture
def started(monkeypatch):
    """Settings of Ray in the environment, each time that a cluster is started."""
    found = []
    for name in (*cluster.TASK_EVENTS, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def init(**_):
        found.append({name: os.environ.get(name) for name in cluster.TASK_EVENTS})

    monkeypatch.setattr(cluster.ray, "init", init)
    yield found
    for name in cluster.TASK_EVENTS:
        os.environ.pop(name, None)


def test_a_cluster_that_is_started_here_forgets_tasks_that_are_over(started):
    cluster.connect(ResourcesConfig())
    assert started == [cluster.TASK_EVENTS]
    # Of the 3.5 kB that each takes, not more than the actors of a run take anyway.
    assert int(cluster.TASK_EVENTS["RAY_task_events_max_num_task_in_gcs"]) <= 10_000


def test_what_the_user_set_counts(started, monkeypatch):
    name = next(iter(cluster.TASK_EVENTS))
    monkeypatch.setenv(name, "123")
    cluster.connect(ResourcesConfig())
    assert started[0][name] == "123"


def test_rays_line_on_a_death_is_left_to_us_and_its_others_are_printed(monkeypatch):
    printed = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, prefix: printed.append(data))
    for _ in range(2):
        leave_deaths_to_us()
    source = inspect.getsource(worker.listen_error_messages)
    assert "print_to_stdstream(" in source, "Ray says it in another way"
    for line in (
        f"{DEATH} by an unexpected system error.",
        "1 worker was killed for want of memory",
    ):
        worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, False)
    assert [data["lines"] for data in printed] == [["1 worker was killed for want of memory"]]


def test_rays_line_on_a_death_is_still_spelt_so():
    binary = Path(ray.__file__).parent / "core/src/ray/raylet/raylet"
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert content.find(DEATH.encode()) >= 0


@pytest.fixture
def left(monkeypatch):
    """Clusters that were left."""
    found = []
    monkeypatch.setattr(cluster, "leave", lambda: found.append("left"))
    monkeypatch.setattr(cluster, "begin_watch", lambda seconds: None)
    return found


def test_signals_are_handled_by_us_whatever_ray_asks_for(monkeypatch, started, left):
    def init(**_):
        utils.set_sigterm_handler(lambda number, frame: pytest.fail("Ray's handler"))

    monkeypatch.setattr(cluster.ray, "init", init)
    with handled(interrupt), cluster.cluster(ResourcesConfig()):
        assert signal.getsignal(signal.SIGTERM) is interrupt
    monkeypatch.undo()
    source = inspect.getsource(utils.set_sigterm_handler)
    assert "signal.signal(signal.SIGTERM" in source, "Ray handles it in another way"


def test_a_signal_to_the_group_of_the_program_does_not_reach_ray(monkeypatch, started):
    groups = []

    def init(**_):
        process = services.ConsolePopen(["cat"], stdin=subprocess.PIPE)
        groups.append((os.getpgid(process.pid), process.pid))
        process.communicate()

    monkeypatch.setattr(cluster.ray, "init", init)
    before = services.ConsolePopen
    cluster.connect(ResourcesConfig())
    [(group, started_process)] = groups
    assert group == started_process
    assert services.ConsolePopen is before
    assert "process = ConsolePopen(" in inspect.getsource(services.start_ray_process)


def test_a_signal_while_it_starts_says_so_and_what_was_started_is_ended(monkeypatch, started, left):
    def init(**_):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(cluster.ray, "init", init)
    with (
        pytest.raises(StoppedError, match=r"^stopped by SIGTERM while the cluster was starting$"),
        cluster.cluster(ResourcesConfig()),
    ):
        pass
    assert left == ["left"]


@pytest.mark.parametrize(
    "error",
    [
        OSError("path length cannot exceed 107"),
        PermissionError(),
        UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)"),
    ],
)
def test_a_folder_that_rays_files_cannot_lie_in_is_refused_by_name(monkeypatch, error):
    def refuse(**options):
        raise error

    monkeypatch.setenv("RAY_TMPDIR", "/a")
    monkeypatch.setattr(cluster, "_start", refuse)
    with pytest.raises(UserError, match=r"^RAY_TMPDIR, or TMPDIR .*, got '/a/ray': "):
        cluster._start_in_tries()


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because ..."),
        RuntimeError("Timed out waiting for file /tmp/ray/session_1/gcs_server_port_2"),
    ],
)
def test_a_ray_that_never_starts_is_told_of_in_one_sentence(monkeypatch, started, error):
    tries = []

    def init(**_):
        tries.append("init")
        raise error

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: tries.append("shutdown"))
    with pytest.raises(RunError, match=r"^Ray did not start on this machine in 3 tries; .*/logs$"):
        cluster.connect(ResourcesConfig())
    assert tries == ["init", "shutdown"] * 2 + ["init"]
    source = inspect.getsource(node.Node.__init__)
    assert cluster.TOO_SLOW[0] in source, "Ray says it in another way"
