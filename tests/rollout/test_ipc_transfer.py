"""CUDA IPC without a GPU: vLLM's own halves with ours around them, on memory of this process."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing import reductions
from vllm.distributed.weight_transfer import ipc_engine, packed_tensor
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from rollout import ipc_transfer
from rollout.ipc_transfer import IpcWeightTransferEngine, bucket_bytes, plain, whole
from rollout.weight_transfer import PolicySource, open_sender

FIELDS = tuple(inspect.signature(reductions.rebuild_cuda_tensor).parameters)


def handle_of(buffer, key=b"handle"):
    """What `reduce_tensor` gives of a tensor on a GPU, with a key in the place of CUDA's."""
    known = {
        "tensor_cls": type(buffer),
        "tensor_size": buffer.size(),
        "tensor_stride": buffer.stride(),
        "tensor_offset": 0,
        "storage_cls": torch.storage.TypedStorage,
        "dtype": buffer.dtype,
        "storage_device": 3,
        "storage_handle": key,
        "storage_size_bytes": buffer.nbytes,
        "storage_offset_bytes": 512,
        "requires_grad": False,
        "ref_counter_handle": b"counter",
        "ref_counter_offset": 7,
        "event_handle": b"",
        "event_sync_required": True,
    }
    return tuple(known[name] for name in FIELDS)


class Memory:
    """A GPU's, in the process's own: buffers by their handles."""

    def __init__(self, monkeypatch):
        self.buffers, self.mapped = {}, []
        properties = SimpleNamespace(uuid="GPU-1")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(
            synchronize=lambda: None))  # fmt: skip
        monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        empty = torch.empty
        here = SimpleNamespace(
            **{name: getattr(torch, name) for name in ("uint8", "cuda", "float32", "bfloat16")},
            empty=lambda size, dtype, device: empty(size, dtype=dtype),
        )
        monkeypatch.setattr(packed_tensor, "torch", here)
        monkeypatch.setattr(packed_tensor, "reduce_tensor", self.exported)
        monkeypatch.setattr(reductions, "rebuild_cuda_tensor", self.rebuilt)

    def exported(self, buffer):
        key = f"handle {len(self.buffers)}".encode()
        self.buffers[key] = buffer
        return reductions.rebuild_cuda_tensor, handle_of(buffer, key)

    def rebuilt(self, *handle):
        named = dict(zip(FIELDS, handle, strict=True))
        self.mapped.append((named["storage_handle"], named["storage_device"]))
        return self.buffers[named["storage_handle"]]


class Engine:
    """A worker of an engine, reached as vLLM reaches one: by messages."""

    def __init__(self):
        self.half = object.__new__(IpcWeightTransferEngine)
        self.half.device = torch.device("cuda", 0)
        self.half.model = self
        self.half._packed_importer = packed_tensor.PackedBufferImporter()
        self.given, self.buckets, self.events = [], [], []

    def load_weights(self, pairs):
        # Kept as they come: a layer that is not complete waits for the next bucket.
        self.given += pairs

    def init_weight_transfer_engine(self, info):
        self.half.init_transfer_engine(ipc_engine.IPCWeightTransferInitInfo(**info))

    def start_weight_update(self):
        self.events.append("start")

    def update_weights(self, info):
        message = MsgpackEncoder().encode(info)
        received = MsgpackDecoder().decode(message)
        self.buckets.append(received["names"])
        self.half.receive_weights(self.half.parse_update_info(received))

    def finish_weight_update(self, weight_version=None):
        self.events.append("finish")


def source_of(weights):
    metadata = [(name, t.dtype, tuple(t.shape)) for name, t in weights.items()]
    aliases = {"lm_head.weight": "embed.weight"}
    return PolicySource(metadata, lambda: iter(weights.items()), aliases)


@pytest.mark.parametrize(("most_bytes", "buckets"), [(10**6, 1), (104, 3), (1, 4)])
def test_an_engine_gets_every_weight_bit_for_bit(monkeypatch, most_bytes, buckets):
    memory, engine = Memory(monkeypatch), Engine()
    monkeypatch.setattr(ipc_transfer, "PACKED_BYTES", most_bytes)
    weights = {
        "embed.weight": torch.arange(24.0).reshape(6, 4),
        "norm.weight": torch.ones(24),
        "bias": torch.arange(4, dtype=torch.bfloat16),
    }
    sender = open_sender(
        backend="ipc",
        rank=0,
        master_address="127.0.0.1",
        master_port=1,
        num_receivers=1,
        client=engine,
        source=source_of(weights),
    )
    for update in range(1, 3):
        weights["norm.weight"] += 0.1
        engine.given, engine.buckets = [], []
        sender.send_weights()
        assert engine.events == ["start", "finish"] * update
        assert len(engine.buckets) == buckets
        found = dict(engine.given)
        assert list(found) == ["embed.weight", "lm_head.weight", "norm.weight", "bias"]
        assert torch.equal(found["lm_head.weight"], weights["embed.weight"])
        assert all(torch.equal(found[name], each) for name, each in weights.items())
        # A buffer is mapped once, on the engine's device, whatever number the learner's has.
        assert memory.mapped == [(f"handle {k}".encode(), 0) for k in range(update)]
    sender.shutdown()


def test_a_handle_comes_back_as_it_was_from_plain_values():
    handle = handle_of(torch.zeros(8, dtype=torch.uint8))
    sent = MsgpackDecoder().decode(MsgpackEncoder().encode(plain(handle)))
    assert whole(sent) == handle


def test_what_is_not_a_buffer_of_weights_is_not_sent():
    with pytest.raises(
        ValueError, match=r"other types than are expected: .*'dtype': torch\.float32"
    ):
        plain(handle_of(torch.zeros(8)))


def test_a_buffer_holds_the_largest_weight_and_no_more_than_there_is():
    source = source_of({"embed.weight": torch.zeros(100), "bias": torch.zeros(10)})
    assert bucket_bytes(source.metadata(), 10**6) == 840
    assert bucket_bytes(source.metadata(), 500) == 500
    assert bucket_bytes(source.metadata(), 100) == 400


def test_an_engine_on_another_gpu_or_without_leave_says_what_does_without(monkeypatch):
    memory, engine = Memory(monkeypatch), Engine()
    sent = plain(memory.exported(torch.zeros(8, dtype=torch.uint8))[1])
    with pytest.raises(RuntimeError, match=r"learner on GPU-2: .*resources\.cuda_ipc=false"):
        engine.half.parse_update_info({"ipc_handles": {"GPU-2": sent}})

    def refused(*handle):
        raise RuntimeError("CUDA error: invalid argument")

    monkeypatch.setattr(reductions, "rebuild_cuda_tensor", refused)
    with pytest.raises(RuntimeError, match=r"invalid argument; resources\.cuda_ipc=false"):
        engine.half.parse_update_info({"ipc_handles": {"GPU-1": sent}})


def test_an_update_that_broke_off_is_forgotten_before_the_next(monkeypatch):
    said = []
    monkeypatch.setattr(ipc_transfer, "forget_broken_update", lambda *model: said.append("forget"))
    monkeypatch.setattr(
        ipc_engine.IPCWeightTransferEngine, "start_weight_update", lambda self: said.append("open")
    )
    engine = Engine()
    engine.half.model_config = None
    engine.half.start_weight_update()
    assert said == ["forget", "open"]
