"""Weight transfer without an engine: registration, what is sent, the client, the request."""

import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from rollout import weight_transfer as wt
from rollout.config import PACKED_BYTES
from rollout.gloo_group import Meeting
from tests.places import PROJECT


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


def test_each_backend_is_ours_however_often_it_is_registered():
    wt.register()
    wt.register()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for backend in wt.BACKENDS:
        module = WeightTransferEngineFactory._registry[backend]().__module__
        assert module == f"rollout.{backend}_transfer"


def test_a_learner_that_sends_over_gloo_imports_no_vllm():
    program = "import sys, learner.worker, learner.publisher, rollout.gloo_sender as _; "
    program += "print(sorted(name for name in sys.modules if name.split('.')[0] == 'vllm'))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_client_gives_every_engine_ranks_of_its_own(monkeypatch):
    calls = []

    class Method:
        def __init__(self, engine):
            self.engine = engine

        def remote(self, info):
            calls.append((self.engine, info.get("rank_offset")))

    handles = [SimpleNamespace(init_weight_transfer_engine=Method(i)) for i in range(3)]
    client = wt.EngineClient(handles, workers_per_engine=2, timeout_seconds=1)
    monkeypatch.setattr(client, "_all", lambda calls: None)
    info = Meeting(master_address="a", master_port=1, rank_offset=1, world_size=7)
    client.init_weight_transfer_engine(asdict(info))
    assert calls == [(0, 1), (1, 3), (2, 5)]
    # Where a backend has ranks at all.
    calls.clear()
    client.init_weight_transfer_engine({"packed": True})
    assert calls == [(0, None), (1, None), (2, None)]


def test_no_engine_begins_an_update_unless_all_are_well(monkeypatch):
    begun = []

    class Engine:
        """An actor whose methods answer at once."""

        def __init__(self, well):
            self.check = SimpleNamespace(remote=lambda: well)
            self.start_weight_update = SimpleNamespace(remote=lambda: begun.append(self))

    def answers(self, calls):
        if False in calls:
            raise RuntimeError("the actor died")

    monkeypatch.setattr(wt.EngineClient, "_all", answers)
    engines = [Engine(True), Engine(False), Engine(True)]
    with pytest.raises(RuntimeError, match="died"):
        wt.EngineClient(engines, 1, 1.0).start_weight_update()
    assert begun == []
    wt.EngineClient(engines[::2], 1, 1.0).start_weight_update()
    assert begun == engines[::2]


def test_a_sender_is_told_of_an_engine_that_fails_to_receive(monkeypatch):
    told = []
    client = wt.EngineClient([], 1, 1.0)
    client.give_up = lambda: told.append(True)
    monkeypatch.setattr(wt.EngineClient, "_all", lambda self, calls: None)
    client.update_weights({})
    assert told == []

    def fails(self, calls):
        raise RuntimeError("the actor died")

    monkeypatch.setattr(wt.EngineClient, "_all", fails)
    with pytest.raises(RuntimeError, match="died"):
        client.update_weights({})
    assert told == [True]


def test_over_nccl_a_sender_is_told_where_to_meet_and_has_a_way_out(monkeypatch):
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    from rollout.nccl_transfer import NcclTrainerWeightTransferEngine

    made = []

    def trainer_init(cls, init_info, client, source):
        made.append((init_info, client, source))
        return SimpleNamespace(model_update_group=None)

    monkeypatch.setattr(NcclTrainerWeightTransferEngine, "trainer_init", classmethod(trainer_init))
    source, _ = make_source({})
    client = wt.EngineClient([], 1, 1.0)
    wt.open_sender(
        backend="nccl",
        rank=0,
        master_address="10.0.0.1",
        master_port=4711,
        num_receivers=6,
        client=client,
        source=source,
    )
    info = NCCLTrainerInitInfo("10.0.0.1", 4711, 7, rank=0, packed_buffer_size_bytes=PACKED_BYTES)
    assert made == [(info, client, source)]
    assert client.give_up.func.__name__ == "break_off"
