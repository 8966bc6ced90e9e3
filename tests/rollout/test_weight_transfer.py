"""The gloo backend without an engine: registration, source, client, transfer between threads."""

import threading
from contextlib import suppress
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from rollout import weight_transfer as wt


def make_source(aliases):
    weights = {"embed.weight": torch.arange(6.0).reshape(2, 3), "norm.weight": torch.ones(3)}
    metadata = [(name, t.dtype, tuple(t.shape)) for name, t in weights.items()]
    return wt.PolicySource(metadata, lambda: iter(weights.items()), aliases), weights


def test_source_sends_a_tied_head_beside_its_embedding():
    source, weights = make_source({"lm_head.weight": "embed.weight"})
    sent = list(source)
    assert [name for name, _ in sent] == ["embed.weight", "lm_head.weight", "norm.weight"]
    assert [m.name for m in source.metadata()] == [name for name, _ in sent]
    assert sent[1][1] is weights["embed.weight"]
    assert source.num_bytes == 4 * (6 + 6 + 3)


def test_source_of_an_untied_model_adds_nothing_and_iterates_anew():
    source, weights = make_source({})
    assert [name for name, _ in source] == [name for name, _ in source] == list(weights)


def test_registering_twice_is_harmless():
    wt.register()
    wt.register()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    assert wt.BACKEND in WeightTransferEngineFactory._registry


class FakeReceiver:
    """Stands in for a RolloutActor: an engine half and a model that records what it loads."""

    def __init__(self):
        config = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        self.engine = object.__new__(wt.GlooWeightTransferEngine)
        self.engine.parallel_config = config
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
            receiver.engine.init_transfer_engine(wt.GlooInitInfo(**shifted))

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


def test_every_receiver_gets_every_weight_bit_for_bit(free_port):
    source, weights = make_source({"lm_head.weight": "embed.weight"})
    receivers = [FakeReceiver(), FakeReceiver()]
    client = FakeClient(receivers)
    sender = wt.open_sender(
        on_gpu=False,
        rank=0,
        master_address="127.0.0.1",
        master_port=free_port,
        num_receivers=2,
        client=client,
        source=source,
    )
    for version in (0, 1):
        weights["norm.weight"] += 0.1
        client.version = version
        sender.send_weights()
        for receiver in receivers:
            assert receiver.events[-2:] == ["start", ("finish", version)]
            assert torch.equal(receiver.loaded["lm_head.weight"], weights["embed.weight"])
            assert torch.equal(receiver.loaded["norm.weight"], weights["norm.weight"])


def test_a_source_that_disagrees_with_its_metadata_is_an_error(free_port):
    source, weights = make_source({})
    receivers = [FakeReceiver()]
    sender = wt.open_sender(
        on_gpu=False,
        rank=0,
        master_address="127.0.0.1",
        master_port=free_port,
        num_receivers=1,
        client=FakeClient(receivers),
        source=source,
    )
    weights["embed.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"declared embed\.weight"):
        sender.send_weights()


def test_ranks_other_than_0_only_help_to_gather():
    gathered = []

    def parameters():
        gathered.append(True)
        return iter([("w", torch.ones(1))])

    source = wt.PolicySource([("w", torch.float32, (1,))], parameters, {})
    sender = wt.open_sender(
        on_gpu=False,
        rank=1,
        master_address="unused",
        master_port=1,
        num_receivers=1,
        client=None,
        source=source,
    )
    sender.send_weights()
    assert gathered == [True]


def test_client_gives_every_engine_ranks_of_its_own(monkeypatch):
    calls = []

    class Method:
        def __init__(self, engine):
            self.engine = engine

        def remote(self, info):
            calls.append((self.engine, info["rank_offset"]))

    handles = [SimpleNamespace(init_weight_transfer_engine=Method(i)) for i in range(3)]
    client = wt.EngineClient(handles, workers_per_engine=2, timeout_seconds=1)
    monkeypatch.setattr(client, "_all", lambda calls: None)
    info = wt.GlooInitInfo(master_address="a", master_port=1, rank_offset=1, world_size=7)
    client.init_weight_transfer_engine(asdict(info))
    assert calls == [(0, 1), (1, 3), (2, 5)]


def test_on_gpus_vllms_own_nccl_classes_are_used(monkeypatch):
    """What can be said without a GPU: the request that reaches vLLM's factory."""
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLTrainerInitInfo,
        NCCLTrainerWeightTransferEngine,
    )

    made = []
    monkeypatch.setattr(
        NCCLTrainerWeightTransferEngine,
        "trainer_init",
        classmethod(
            lambda cls, init_info, client, source: made.append((init_info, client, source))
        ),
    )
    source, _ = make_source({})
    wt.open_sender(
        on_gpu=True,
        rank=0,
        master_address="10.0.0.1",
        master_port=4711,
        num_receivers=6,
        client="client",
        source=source,
    )
    info = NCCLTrainerInitInfo("10.0.0.1", 4711, 7, rank=0)
    assert made == [(info, "client", source)]
