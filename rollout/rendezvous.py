"""The store at which the processes of a group find each other.

torch's own listens on every interface, whatever address it is given, and hands what it holds to
whoever asks. Here the host of a group on one machine listens on loopback alone.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from ipaddress import ip_address

from torch.distributed import TCPStore  # type: ignore[attr-defined]


def open_store(
    address: str, port: int, world_size: int, *, hosts: bool, timeout: timedelta
) -> TCPStore:
    """Return the store, which does not wait for the other processes.

    Args:
        address: Of the host, which all reach it by.
        port: A free port there.
        world_size: Processes of the group.
        hosts: Whether this is the host.
        timeout: Longest wait for whatever the store is asked for.
    """
    listening = _listening_on(address, port) if hosts else None
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
    """A socket at this address if it is loopback; another may not be one of this host's own."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if not found.is_loopback:
        return None
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    return socket.create_server((address, port), family=family)
