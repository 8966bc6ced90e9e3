"""Makes a GPU of the host's memory torch's: `device.cpp`, and what Python asks about GPUs.

To be imported before torch, which looks for its devices once.
"""

import ctypes
import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

_found = importlib.util.find_spec("torch")
assert _found is not None
assert _found.origin is not None
for _name in ("libc10.so", "libtorch_cpu.so"):
    _path = Path(_found.origin).with_name("lib") / _name
    ctypes.CDLL(str(_path), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(os.environ["HOST_GPU"], mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  # It would look for parts that only builds for GPUs have.
import torch._inductor  # noqa: E402

TOTAL_BYTES = 16 << 30


class Stream:
    """The one stream, on which all is done at once."""

    def __init__(self, *_, **__):
        self.device = torch.device("cuda", 0)

    def synchronize(self, _=None):
        """Nothing is left to wait for."""

    wait_event = wait_stream = synchronize

    def record_event(self, event=None):
        """See `torch.cuda.Stream`."""
        return event or Event()


class Event:
    """Something that is past."""

    def __init__(self, *_, **__):
        pass

    def record(self, stream=None):
        """Nothing is left to wait for."""

    wait = synchronize = record

    def query(self):
        """See `torch.cuda.Event`."""
        return True


@contextmanager
def stream(stream):
    """Do something on a stream."""
    yield stream


def always(answer):
    """Return a function of its own, as torch's compiler wants each to be."""
    return lambda *_, **__: answer


STREAM = Stream()
SHARE = [1.0]
ANSWERS = {
    "_lazy_init": None,
    "_is_compiled": True,
    "is_available": True,
    "is_initialized": True,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "device_count": 1,
    "current_device": 0,
    "set_device": None,
    "synchronize": None,
    "empty_cache": None,
    "ipc_collect": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "get_device_capability": (9, 0),
    "get_device_name": "host",
    "get_device_properties": SimpleNamespace(
        name="host",
        uuid="0",
        major=9,
        minor=0,
        total_memory=TOTAL_BYTES,
        multi_processor_count=132,
    ),
    "mem_get_info": (TOTAL_BYTES // 2, TOTAL_BYTES),
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
    "memory_stats": {},
    "reset_peak_memory_stats": None,
    "current_stream": STREAM,
    "default_stream": STREAM,
}
"""Function of `torch.cuda` -> what it always returns."""
OTHERS = {
    "_lazy_call": lambda call, **_: call(),
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda state, *_: torch.set_rng_state(state),
    "initial_seed": torch.initial_seed,
    "default_generators": (torch.default_generator,),
    "get_per_process_memory_fraction": lambda *_: SHARE[0],
    "set_per_process_memory_fraction": lambda share, *_: SHARE.__setitem__(0, share),
    "nvtx": SimpleNamespace(range_push=always(None), range_pop=always(None)),
    "Event": Event,
    "Stream": Stream,
    "stream": stream,
}
KINDS = ("BFloat16", "Byte", "Double", "Float", "Half", "Int", "Long")


init_on_cpus = torch.distributed.init_process_group


def _init_process_group(backend=None, *args, **settings):
    assert backend == "nccl", "GPUs speak to each other over NCCL"
    settings.pop("device_id", None)
    return init_on_cpus("gloo", *args, **settings)


def _new_group(ranks=None, *args, new=torch.distributed.new_group, **settings):
    return new(ranks, *args, **settings | {"backend": "gloo"})


for _name, _answer in ANSWERS.items():
    setattr(torch.cuda, _name, always(_answer))
for _name, _answer in OTHERS.items():
    setattr(torch.cuda, _name, _answer)
for _name in KINDS:
    setattr(torch.cuda, f"{_name}Tensor", getattr(torch, f"{_name}Tensor"))
torch.cuda.nccl.version = always((2, 27, 3))
torch.version.cuda = "13.0"
torch._C._cuda_getCurrentRawStream = always(0)
torch._dynamo.config.disable = True
torch.Tensor.pin_memory = lambda tensor, *_: tensor
torch.Tensor.record_stream = lambda *_: None
torch.distributed.is_nccl_available = always(True)
torch.distributed.init_process_group = _init_process_group
torch.distributed.distributed_c10d.init_process_group = _init_process_group
torch.distributed.new_group = torch.distributed.distributed_c10d.new_group = _new_group
