"""Who can reach the store of a group."""

import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from rollout.rendezvous import (
    GivenUpError,
    give_up,
    interface_of,
    meet,
    open_store,
    own_address,
    reserve_port,
)

SOON = timedelta(seconds=10)


def listening_at(port):
    """Addresses at which this machine listens on a port, as /proc writes them."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, at = local.partition(":")
            if state == "0A" and int(at, 16) == port:
                found.append(address)
    return found


def test_the_host_of_a_group_on_one_machine_listens_on_loopback_alone(free_port):
    hosted = open_store("127.0.0.1", free_port, 2, hosts=True, timeout=SOON)
    joined = open_store("127.0.0.1", free_port, 2, hosts=False, timeout=SOON)
    joined.set("rank", "1")
    assert hosted.get("rank") == b"1"
    assert listening_at(free_port) == ["0100007F"]


def test_a_port_that_is_reserved_is_nobody_elses_until_a_store_is_opened_there():
    unused = reserve_port("127.0.0.1")
    port = reserve_port("127.0.0.1")
    socket.create_server(("127.0.0.1", unused)).close()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))
    hosted = open_store("127.0.0.1", port, 2, hosts=True, timeout=SOON)
    open_store("127.0.0.1", port, 2, hosts=False, timeout=SOON).set("rank", "1")
    assert hosted.get("rank") == b"1"
    assert listening_at(port) == ["0100007F"]
    # An address that this host is reached by and does not have itself.
    assert reserve_port("192.0.2.1") > 0


@pytest.mark.parametrize("address", ["localhost", "0.0.0.0"])
def test_a_host_that_others_reach_by_name_or_address_listens_for_them(address, free_port):
    hosted = open_store(address, free_port, 2, hosts=True, timeout=SOON)
    with socket.create_connection(("127.0.0.1", free_port), timeout=10):
        assert hosted.port == free_port
    assert listening_at(free_port) != ["0100007F"]


def test_ranks_meet_when_all_are_there(free_port):
    where = ("127.0.0.1", free_port, 3)
    stores = [open_store(*where, hosts=rank == 0, timeout=SOON) for rank in range(3)]
    met = []

    def come(rank):
        meet(stores[rank], rank, 3, seconds=30)
        met.append(rank)

    early = [threading.Thread(target=come, args=(rank,)) for rank in (1, 2)]
    for each in early:
        each.start()
    time.sleep(0.2)
    assert met == []
    come(0)
    for each in early:
        each.join(10)
    assert sorted(met) == [0, 1, 2]


def test_who_waits_for_one_that_will_not_come_is_free_when_the_host_gives_up(free_port):
    where = ("127.0.0.1", free_port, 3)
    hosted = open_store(*where, hosts=True, timeout=SOON)
    said = []

    def come():
        with pytest.raises(GivenUpError) as told:
            meet(open_store(*where, hosts=False, timeout=SOON), 1, 3, seconds=60)
        said.append(str(told.value))

    waiting = threading.Thread(target=come)
    waiting.start()
    time.sleep(0.2)
    assert hosted.check(["here 1"])
    give_up(*where)
    waiting.join(10)
    assert said == ["the host of the group has given it up"]


def test_ranks_that_do_not_come_are_named(free_port):
    store = open_store("127.0.0.1", free_port, 3, hosts=True, timeout=SOON)
    store.set("here 2", "yes")
    with pytest.raises(TimeoutError, match=r"^ranks \[1\] of the group did not come within 0\.1 s"):
        meet(store, 0, 3, seconds=0.1)


def test_the_address_towards_a_peer_is_not_what_the_own_name_resolves_to(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "127.0.1.1")
    assert own_address("127.0.0.1") == "127.0.0.1"
    # The name is of both on most machines, and any of them may come first.
    assert own_address("localhost") in ("127.0.0.1", "::1")
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None and interface_of("::1") is None
