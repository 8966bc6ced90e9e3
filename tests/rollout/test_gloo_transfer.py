"""The gloo backend without an engine: transfer between threads."""

import threading
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from rollout import gloo_group, gloo_sender
from rollout.buckets import cut
from rollout.gloo_transfer import GlooInitInfo, GlooWeightTransferEngine
from rollout.rendezvous import GivenUpError
from rollout.weight_transfer import PolicySource, open_sender


def make_source():
    weights = {
        "embed.weight": torch.arange(6.0).reshape(2, 3),
        "norm.weight": torch.ones(3),
        "bias": torch.arange(5, dtype=torch.bfloat16),
    }
    metadata = [(name, t.dtype, tuple(t.shape)) for name, t in weights.items()]
    aliases = {"lm_head.weight": "embed.weight"}
    return PolicySource(metadata, lambda: iter(weights.items()), aliases), weights


class FakeReceiver:
    """Stands in for a RolloutActor: an engine half and a model that records what it loads."""

    def __init__(self):
        config = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        self.engine = object.__new__(GlooWeightTransferEngine)
        self.engine.parallel_config = config
        self.engine.device = torch.device("cpu")
        self.engine.model = self
        self.loaded = {}
        self.events = []

    def load_weights(self, pairs):
        self.loaded |= {name: tensor.clone() for name, tensor in pairs}


class FakeClient:
    def __init__(self, receivers):
        self.receivers = receivers
        self.version = 0

    def _all(self, call):
        threads = [threading.Thread(target=call, args=(i, r)) for i, r in enumerate(self.receivers)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(30)

    def init_weight_transfer_engine(self, info):
        def join(i, receiver):
            shifted = info | {"rank_offset": info["rank_offset"] + i}
            receiver.engine.init_transfer_engine(GlooInitInfo(**shifted))

        self._all(join)

    def start_weight_update(self):
        for r in self.receivers:
            r.events.append("start")

    def update_weights(self, info):
        def receive(_, receiver):
            # A receiver whose sender gave up sees the connection end.
            with suppress(RuntimeError):
                receiver.engine.update_weights(info)

        self._all(receive)

    def finish_weight_update(self, weight_version=None):
        for r in self.receivers:
            r.events.append(("finish", self.version))


def sender_of(source, client, port, num_receivers):
    return open_sender(
        backend="gloo",
        rank=0,
        master_address="127.0.0.1",
        master_port=port,
        num_receivers=num_receivers,
        client=client,
        source=source,
    )


def test_every_receiver_gets_every_weight_bit_for_bit(free_port, monkeypatch):
    source, weights = make_source()
    receivers = [FakeReceiver(), FakeReceiver()]
    client = FakeClient(receivers)
    sender = sender_of(source, client, free_port, num_receivers=2)
    for version in (0, 1):
        weights["norm.weight"] += 0.1
        client.version = version
        # All in one bucket, then one bucket each.
        monkeypatch.setattr(gloo_group, "cut", partial(cut, most_bytes=2**24 * (1 - version)))
        sender.send_weights()
        for receiver in receivers:
            assert receiver.events[-2:] == ["start", ("finish", version)]
            assert torch.equal(receiver.loaded["lm_head.weight"], weights["embed.weight"])
            assert receiver.loaded.keys() == {*weights, "lm_head.weight"}
            assert all(torch.equal(receiver.loaded[name], each) for name, each in weights.items())


def test_a_source_that_disagrees_with_its_metadata_is_an_error(free_port):
    source, weights = make_source()
    receivers = [FakeReceiver()]
    sender = sender_of(source, FakeClient(receivers), free_port, num_receivers=1)
    weights["embed.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"declared embed\.weight"):
        sender.send_weights()


def test_a_source_is_run_to_its_end_and_may_have_no_more_than_it_declared(free_port):
    ended = []

    def parameters():
        try:
            yield "w", torch.ones(2)
        finally:
            ended.append(True)
        if more:
            yield "w", torch.ones(2)

    source = PolicySource([("w", torch.float32, (2,))], parameters, {})
    sender = sender_of(source, FakeClient([FakeReceiver()]), free_port, num_receivers=1)
    more = False
    sender.send_weights()
    assert ended == [True]
    more = True
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        sender.send_weights()


def test_an_engine_that_cannot_join_is_told_at_once_and_not_waited_for(free_port, monkeypatch):
    # What a group that never comes together holds up: the end of this process.
    for module in (gloo_group, gloo_sender):
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", 5.0)

    class Refusing(FakeClient):
        def init_weight_transfer_engine(self, info):
            raise RuntimeError("its engine cannot take other weights")

    with pytest.raises(RuntimeError, match=r"^its engine cannot"):
        sender_of(make_source()[0], Refusing([]), free_port, num_receivers=1)


def test_when_one_dies_at_the_join_the_others_are_free_at_once(free_port):
    """One of two engines joins, and the other dies: the first must not wait for it."""
    freed = []

    def join(info):
        with pytest.raises(GivenUpError):
            FakeReceiver().engine.init_transfer_engine(GlooInitInfo(**info))
        freed.append(True)

    class Dying(FakeClient):
        def init_weight_transfer_engine(self, info):
            self.living = threading.Thread(target=join, args=(info,))
            self.living.start()
            self.living.join(0.3)
            raise RuntimeError("an engine died")

    client = Dying([])
    with pytest.raises(RuntimeError, match=r"^an engine died"):
        sender_of(make_source()[0], client, free_port, num_receivers=2)
    client.living.join(10)
    assert freed == [True]


def test_a_group_listens_towards_its_host_or_where_it_is_told_to(monkeypatch):
    monkeypatch.setattr(gloo_group, "own_address", lambda peer: f"towards {peer}")
    made = []
    monkeypatch.setattr(
        gloo_group.ProcessGroupGloo, "create_device", lambda **where: made.append(where)
    )
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    gloo_group._devices("10.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0,eth1")
    gloo_group._devices("10.0.0.1")
    assert made == [
        {"hostname": "towards 10.0.0.1"}, {"interface": "eth0"}, {"interface": "eth1"},
    ]  # fmt: skip


def test_ranks_other_than_0_only_help_to_gather():
    gathered = []

    def parameters():
        gathered.append(True)
        return iter([("w", torch.ones(1))])

    source = PolicySource([("w", torch.float32, (1,))], parameters, {})
    sender = open_sender(
        backend="gloo",
        rank=1,
        master_address="unused",
        master_port=1,
        num_receivers=1,
        client=None,
        source=source,
    )
    sender.send_weights()
    assert gathered == [True]
