"""The group that weights go through over gloo, and what is told of them beforehand.

Both ends import this module: `rollout.gloo_sender` in the learner, `rollout.gloo_transfer` in the
engines.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

from rollout.buckets import Bucket, cut
from rollout.rendezvous import meet, own_address

TIMEOUT_SECONDS = 120.0
"""Longest wait until all are there, and for one tensor."""
CONNECT_SECONDS = 30.0
"""Longest wait for those that are there to connect with each other."""


@dataclass(kw_only=True)
class Meeting:
    """What an engine worker needs to join the group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class Contents:
    """What a receiver needs to know of the tensors to come, in stream order."""

    names: list[str]
    dtype_names: list[str]
    """Names of torch's dtypes, such as "bfloat16"."""
    shapes: list[list[int]]
    """Full shapes, unpartitioned."""

    def buckets(self) -> list[Bucket]:
        """Return what they come in."""
        dtypes = (getattr(torch, name) for name in self.dtype_names)
        return cut([(dtype, tuple(s)) for dtype, s in zip(dtypes, self.shapes, strict=True)])


def join(store: TCPStore, rank: int, world_size: int, master_address: str) -> ProcessGroupGloo:
    """Make the group once all are there; a store that is given up ends the wait.

    Args:
        store: That all meet at; see `rollout.rendezvous`.
        rank: This process's; 0 sends.
        world_size: Processes of the group.
        master_address: The sender's host.
    """
    meet(store, rank, world_size, seconds=TIMEOUT_SECONDS)
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = _devices(master_address)
    options._timeout = timedelta(seconds=CONNECT_SECONDS)
    group = ProcessGroupGloo(store, rank, world_size, options)
    group._set_default_timeout(timedelta(seconds=TIMEOUT_SECONDS))
    return group


def _devices(master_address: str) -> list[Any]:
    """What to listen on: GLOO_SOCKET_IFNAME's interfaces, else the one towards the host."""
    create: Any = ProcessGroupGloo.create_device
    if names := os.environ.get("GLOO_SOCKET_IFNAME", ""):
        return [create(interface=name) for name in names.split(",")]
    return [create(hostname=own_address(master_address))]


def broadcast(group: ProcessGroupGloo, tensor: torch.Tensor) -> None:
    """Send a tensor at rank 0, and fill it at all others."""
    group.broadcast(tensor, 0).wait()  # type: ignore[attr-defined]
