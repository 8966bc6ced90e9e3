"""How the ranks of a learner publish together."""

import threading
from types import SimpleNamespace

import pytest
import torch

from learner.publisher import WeightPublisher

NAMES = ("embed.weight", "layer.weight", "norm.weight")


class Partitioned:
    """Weights of which no rank gets one before all ask for it, as under ZeRO-3."""

    def __init__(self, asked):
        self.asked = asked
        self.gathered = []

    def published_metadata(self):
        return [(name, torch.float32, (2,)) for name in NAMES]

    def published(self):
        for name in NAMES:
            self.asked.wait(20)
            self.gathered.append(name)
            yield name, torch.ones(2)


def publisher_of(rank, asked, device="cpu"):
    # A model without a head of its own.
    model = SimpleNamespace(config=SimpleNamespace(model_type="gemma2"))
    engine = SimpleNamespace(rank=rank, model=model, device=torch.device(device))
    engine.weights = Partitioned(asked)
    made = WeightPublisher(engine)
    made._client = SimpleNamespace()
    return made


@pytest.mark.parametrize("num_sent", [0, 1, 3])
def test_a_rank_that_cannot_send_keeps_no_other_waiting(num_sent):
    """It fails at the start, between two weights, or when all are sent; twice."""
    asked = threading.Barrier(2)
    sending, helping = publisher_of(0, asked), publisher_of(1, asked)

    def send():
        if num_sent:
            for count, _ in enumerate(sending._source, start=1):
                if count == num_sent:
                    raise OSError("an engine died")
        raise OSError("an engine died")

    sending._sender = SimpleNamespace(send_weights=send)
    helping._sender = SimpleNamespace(send_weights=lambda: list(helping._source))
    for attempt in (1, 2):
        other = threading.Thread(target=helping.publish, args=(attempt,))
        other.start()
        with pytest.raises(OSError, match="an engine died"):
            sending.publish(attempt)
        other.join(30)
        assert sending._engine.weights.gathered == list(NAMES) * attempt
        assert helping._engine.weights.gathered == list(NAMES) * attempt


@pytest.mark.parametrize(("device", "events"), [("cpu", ["sent"]), ("cuda", ["waited", "sent"])])
def test_what_a_gpu_still_computes_is_waited_for(monkeypatch, device, events):
    found = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: found.append("waited"))
    publisher = publisher_of(0, threading.Barrier(1), device)
    publisher._sender = SimpleNamespace(send_weights=lambda: found.append("sent"))
    publisher.publish(1)
    assert found == events


@pytest.mark.parametrize("rank", [0, 1])
def test_engines_leave_the_older_group_before_anybody_waits_in_the_new_one(monkeypatch, rank):
    """One that cannot leave is found then."""
    events = []
    leave = SimpleNamespace(remote=lambda: events.append("left"))
    monkeypatch.setattr("ray.get", lambda calls, timeout: None)
    monkeypatch.setattr("learner.publisher.open_sender", lambda **_: events.append("open"))
    publisher_of(rank, threading.Barrier(1)).connect(
        [SimpleNamespace(leave_weight_transfer=leave)], backend="nccl", workers_per_engine=1,
        master_address="", master_port=1, deadline_seconds=1.0,
    )  # fmt: skip
    assert events == (["open"] if rank else ["left", "open"])
