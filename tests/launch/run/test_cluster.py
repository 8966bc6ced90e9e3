"""Clusters that are started here, without starting one."""

import os

import pytest

from conf.resources import ResourcesConfig
from launch.run import cluster


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
