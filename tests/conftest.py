"""Fixtures for all tests."""

import gc
import os
import socket

import pytest
from hypothesis import HealthCheck, settings

from tests.quick_hydra import quicken

# Machines are shared: what takes long is no fault.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Or a call of Ray's before `ray.init` starts a cluster, or waits for one that this user once had.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

# Until all is collected: imports make millions of objects, and none is garbage.
gc.disable()
quicken()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pytest_collection_finish():
    """What was imported and collected stays to the end: no collection need look at it again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish():
    """Or libraries count what they find at the end as leaked."""
    gc.unfreeze()
