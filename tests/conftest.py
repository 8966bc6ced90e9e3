"""Fixtures for all tests."""

import gc
import os
import socket

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pytest_collection_finish():
    """What was imported and collected stays to the end: no collection need look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Or libraries count what they find at the end as leaked."""
    gc.unfreeze()
