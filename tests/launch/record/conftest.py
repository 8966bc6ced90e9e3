"""A disk without room."""

import resource
import signal

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Lift the limit before pytest says what became of the test, perhaps into a larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_at():
    """No file of this process may grow beyond so many bytes, as on a disk without room."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    signal.signal(signal.SIGXFSZ, ignored)
