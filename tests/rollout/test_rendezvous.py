"""Who can reach the store of a group."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from rollout.rendezvous import open_store

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


@pytest.mark.parametrize("address", ["localhost", "0.0.0.0"])
def test_a_host_that_others_reach_by_name_or_address_listens_for_them(address, free_port):
    hosted = open_store(address, free_port, 2, hosts=True, timeout=SOON)
    with socket.create_connection(("127.0.0.1", free_port), timeout=10):
        assert hosted.port == free_port
    assert listening_at(free_port) != ["0100007F"]
