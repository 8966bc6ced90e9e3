"""What a worker makes of its settings; the engine is a stand-in without a policy."""

import os
import socket
from types import SimpleNamespace

import pytest
import ray

from learner import worker
from learner.config import LearnerConfig
from learner.curvature_config import RejectedShares
from learner.numerics import Numerics
from learner.objectives import ClippedSurrogate
from learner.token_masks import WithinCurvature
from learner.worker import LearnerWorker


@pytest.mark.parametrize(
    ("shares", "kinds"),
    [(RejectedShares(), []), (RejectedShares(shift=0.1), [WithinCurvature])],
)
def test_tokens_are_masked_only_where_some_may_be_left_out(monkeypatch, shares, kinds):
    monkeypatch.setattr(worker, "DeepSpeedEngine", lambda *_: SimpleNamespace())
    config = LearnerConfig(curvature=shares)
    loaded = LearnerWorker(0, 1, config, "", ClippedSurrogate(), Numerics("float32", 1.0))
    loaded._load()
    assert [type(hook) for hook in loaded._hooks] == kinds


@pytest.mark.parametrize(
    ("world_size", "set_by_user", "found"),
    [
        (2, {}, {"GLOO": "eth1", "NCCL": "=eth1"}),
        (2, {"NCCL": "ib0"}, {"GLOO": "eth1", "NCCL": "ib0"}),
        # Who names gloo's interface knows the machine, and NCCL is left to choose.
        (2, {"GLOO": "eth0"}, {"GLOO": "eth0"}),
        (1, {}, {}),
    ],
)
def test_ranks_listen_where_the_first_finds_them(monkeypatch, world_size, set_by_user, found):
    given = {f"{who}_SOCKET_IFNAME": name for who, name in set_by_user.items()}
    monkeypatch.setattr(os, "environ", given)
    monkeypatch.setattr(worker, "own_address", lambda _: "10.0.0.2")
    monkeypatch.setattr(worker, "interface_of", {"10.0.0.2": "eth1"}.get)
    monkeypatch.setattr(LearnerWorker, "_load", lambda _: None)
    config = LearnerConfig()
    numerics = Numerics("float32", 1.0)
    joining = LearnerWorker(1, world_size, config, "", ClippedSurrogate(), numerics)
    joining.connect("10.0.0.1", 1234, 1)
    names = {key: value for key, value in given.items() if key.endswith("_SOCKET_IFNAME")}
    assert names == {f"{who}_SOCKET_IFNAME": name for who, name in found.items()}


def test_nobody_takes_the_port_that_ranks_and_engines_are_told_before_they_meet(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    given = (2, LearnerConfig(), "", ClippedSurrogate(), Numerics("float32", 1.0))
    first, second = (LearnerWorker(rank, *given).address() for rank in (0, 1))
    with pytest.raises(OSError, match="in use"):
        socket.create_server(first)
    assert second == ("127.0.0.1", 0)
