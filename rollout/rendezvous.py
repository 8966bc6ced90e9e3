"""Where the processes of a group find each other: the store that they meet at, and the interface.

torch's own listens on every interface, whatever address it is given, and hands what it holds to
whoever asks. Here the host of a group listens at the address that it gave, where that is its own.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, TypeVar

from torch.distributed import TCPStore  # type: ignore[attr-defined]

LOOK_SECONDS = 0.02
GIVE_UP_SECONDS = 5.0
_GIVEN_UP = "given up"
Group = TypeVar("Group")
_ADDRESS_OF = 0x8915
"""SIOCGIFADDR of Linux."""


_reserved: dict[int, socket.socket] = {}
"""By its port, the socket of a store that is still to be opened; one at most."""


class GivenUpError(RuntimeError):
    """The host of a group no longer wants it."""


def reserve_port(address: str) -> int:
    """Return a free port of this host, which is nobody else's until a store is opened there.

    One that was reserved before and not used is free again.

    Args:
        address: Of this host, which all reach it by.
    """
    for unused in _reserved.values():
        unused.close()
    _reserved.clear()
    if (listening := _listening_on(address, 0)) is None:
        with socket.create_server(("", 0)) as probe:
            return int(probe.getsockname()[1])
    port = int(listening.getsockname()[1])
    _reserved[port] = listening
    return port


def open_store(
    address: str, port: int, world_size: int, *, hosts: bool, timeout: timedelta
) -> TCPStore:
    """Return the store, which does not wait for the other processes.

    Args:
        address: Of the host, which all reach it by.
        port: A free port there; of `reserve_port`, where this process is the host.
        world_size: Processes of the group.
        hosts: Whether this is the host.
        timeout: Longest wait for whatever the store is asked for.
    """
    listening = (_reserved.pop(port, None) or _listening_on(address, port)) if hosts else None
    return TCPStore(
        address,
        port,
        world_size,
        is_master=hosts,
        timeout=timeout,
        wait_for_workers=False,
        # The store closes it.
        master_listen_fd=listening.detach() if listening else None,
    )


def _listening_on(address: str, port: int) -> socket.socket | None:
    """A socket at this address; None for a name, or an address that is not this host's own."""
    try:
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        return socket.create_server((address, port), family=family)
    except (ValueError, OSError):
        return None


def meet(store: TCPStore, rank: int, world_size: int, *, seconds: float) -> None:
    """Wait at a store until all ranks of a group are there.

    A group that is made before they are waits for whoever is missing, dead or not, to its end.

    Args:
        store: From `open_store`.
        rank: This process's.
        world_size: Processes of the group.
        seconds: Longest wait.

    Raises:
        GivenUpError: As soon as the host has given the group up.
        TimeoutError: Naming the ranks that did not come.
    """
    store.set(f"here {rank}", "yes")
    deadline = time.monotonic() + seconds
    missing = list(range(world_size))
    while not store.check([f"here {each}" for each in missing]):
        if store.check([_GIVEN_UP]):
            raise GivenUpError("the host of the group has given it up")
        if time.monotonic() > deadline:
            missing = [each for each in missing if not store.check([f"here {each}"])]
            raise TimeoutError(f"ranks {missing} of the group did not come within {seconds:g} s")
        time.sleep(LOOK_SECONDS)


def host_group(
    address: str,
    port: int,
    world_size: int,
    *,
    timeout: timedelta,
    ask: Callable[[], object],
    enter: Callable[[TCPStore], Group],
) -> Group:
    """Host a store, ask the other ranks to come, and enter the group with them.

    Args:
        address: Of this host, which all reach it by.
        port: A free port here.
        world_size: Processes of the group.
        timeout: Longest wait for whatever the store is asked for.
        ask: Returns when all others are in the group; raises if one cannot join, or dies.
        enter: Given the store, meets the others there and makes this rank's end of the group.

    Raises:
        Exception: That of `ask` or `enter`, as soon as there is one: the group would wait to the
            end. The others are then free for a group without the one that is missing.
    """
    store = open_store(address, port, world_size, hosts=True, timeout=timeout)
    side = ThreadPoolExecutor(max_workers=2)
    try:
        joined, ours = side.submit(ask), side.submit(enter, store)
        both: list[Future[Any]] = [joined, ours]
        wait(both, return_when=FIRST_EXCEPTION)
        for one in both:
            if one.done():
                one.result()
        return ours.result()
    except BaseException:
        give_up(address, port, world_size)
        raise
    finally:
        side.shutdown(wait=False)


def give_up(address: str, port: int, world_size: int) -> None:
    """Let nobody wait any longer at a store that is hosted here; where it is gone, nobody does."""
    with suppress(RuntimeError):
        # By a connection of its own: that of the host may be held by who waits.
        timeout = timedelta(seconds=GIVE_UP_SECONDS)
        store = open_store(address, port, world_size, hosts=False, timeout=timeout)
        store.set(_GIVEN_UP, "yes")


def own_address(peer: str) -> str:
    """Return this machine's address on the interface that goes towards a peer.

    What its own name resolves to may be 127.0.1.1, where no other machine finds it.

    Args:
        peer: Name or address of another machine, or of this one.
    """
    family, *_, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Nothing is sent.
        probe.connect(where)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Return the name of the interface with an IPv4 address; None where there is none."""
    if ip_address(address).version != 4:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()[:15]))
            try:
                fcntl.ioctl(asking.fileno(), _ADDRESS_OF, request)
            except OSError:
                # It has no address.
                continue
            if socket.inet_ntoa(request[20:24].tobytes()) == address:
                return name
    return None
