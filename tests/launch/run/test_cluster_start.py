"""What a machine must have before Ray is started on it, and where Ray is looked for."""

from types import SimpleNamespace

import pytest

from conf.resources import ResourcesConfig
from launch.cli.refusals import UserError
from launch.run.cluster import connect
from launch.run.machine import raise_open_files, require_addresses, store_options

MIB, GIB = 2**20, 2**30


class Limits:
    """Stands for the module `resource`."""

    RLIMIT_NOFILE, RLIM_INFINITY = 7, -1

    def __init__(self, soft, hard):
        self.now = (soft, hard)

    def getrlimit(self, kind):
        assert kind == self.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, kind, limits):
        assert kind == self.RLIMIT_NOFILE
        self.now = limits


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((256, 4096), (4096, 4096)),
        ((256, 1_000_000), (65_536, 1_000_000)),
        ((256, -1), (65_536, -1)),
        ((1024, 1024), (1024, 1024)),
        ((100_000, 100_000), (100_000, 100_000)),
        ((-1, -1), (-1, -1)),
    ],
)
def test_a_low_limit_of_open_files_is_raised_and_none_lowered(before, after):
    limits = Limits(*before)
    raise_open_files(limits)
    assert limits.now == after


@pytest.mark.parametrize("hard", [256, 1023])
def test_a_hard_limit_too_low_is_refused(hard):
    with pytest.raises(UserError, match=rf"^open files must .*ulimit -Hn.*, got {hard}$"):
        raise_open_files(Limits(256, hard))


@pytest.mark.parametrize("limit", [-1, 10 * GIB])
def test_addresses_that_hold_the_store_and_a_process_are_enough(limit):
    require_addresses(6 * GIB, addresses(limit))


@pytest.mark.parametrize("limit", [6 * GIB, 10 * GIB - 1])
def test_a_limit_of_addresses_too_low_for_the_store_is_refused(limit):
    with pytest.raises(UserError, match=rf"10485760 kB .*ulimit -v\), got {limit // 1024}$"):
        require_addresses(6 * GIB, addresses(limit))


def addresses(limit):
    return SimpleNamespace(RLIMIT_AS=9, RLIM_INFINITY=-1, getrlimit=lambda _: (limit, limit))


def test_a_store_that_fits_by_itself_is_left_to_ray():
    assert store_options(free=8 * GIB, memory=16 * GIB) == {}


@pytest.mark.parametrize("free", [128 * MIB, GIB, 4 * GIB])
def test_a_small_shared_memory_takes_a_small_store(free):
    assert 75 * MIB < store_options(free, memory=64 * GIB)["object_store_memory"] < free


@pytest.mark.parametrize("free", [0, 64 * MIB, 128 * MIB - 1])
def test_too_little_shared_memory_is_refused_with_the_remedy(free):
    with pytest.raises(UserError, match=r"^/dev/shm must have 128 MiB free .*--shm-size.*, got \d"):
        store_options(free, memory=16 * GIB)


@pytest.mark.parametrize("address", ["ray://", "host", ":6379", "host:", "a:b", "ray://:1", "[]:1"])
@pytest.mark.parametrize("by", ["resources.address", "RAY_ADDRESS"])
def test_an_address_that_is_none_is_refused_at_once(address, by, monkeypatch):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    asked = ResourcesConfig(address=address if by == "resources.address" else None)
    with pytest.raises(UserError, match=r"^resources\.address or RAY_ADDRESS must be HOST:PORT"):
        connect(asked)


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, ValueError])
def test_what_answers_and_is_no_ray_is_refused(error, monkeypatch):
    def init(**_):
        raise error("no\nRay")

    monkeypatch.setattr("ray.init", init)
    nothing = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: nothing)
    with pytest.raises(UserError, match=r"^no Ray cluster can be joined at '.*: no Ray$"):
        connect(ResourcesConfig(address="127.0.0.1:1"))
