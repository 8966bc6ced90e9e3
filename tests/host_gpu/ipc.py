"""CUDA IPC for the host's GPU: a tensor that is shared moves into a file that is memory only."""

import os
import weakref

import torch
from torch.multiprocessing import reductions

COUNTERS_AND_EVENT = (b"counter", 0, b"event", False)


def register():
    """Let processes map each other's tensors by what `reduce_tensor` gives."""
    reductions.reduce_tensor = reduce_tensor
    for storage in (torch.TypedStorage, torch.UntypedStorage):
        storage._new_shared_cuda = staticmethod(new_shared_cuda)


def mapped(path, size):
    """A file as the GPU's memory, [size] uint8."""
    host = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
    return torch.ops.host_gpu.on_gpu(host)


def reduce_tensor(tensor):
    """See `torch.multiprocessing.reductions.reduce_tensor`; for whole buffers of bytes."""
    assert tensor.is_cuda
    assert tensor.dtype == torch.uint8
    size = tensor.numel()
    file = os.memfd_create("host_gpu")
    os.truncate(file, size)
    path = f"/proc/{os.getpid()}/fd/{file}"
    shared = mapped(path, size)
    shared.copy_(tensor.view(-1))
    tensor.set_(shared)
    weakref.finalize(tensor, os.close, file)
    kind = (type(tensor), tensor.size(), tensor.stride(), 0, torch.TypedStorage, tensor.dtype)
    handle = (0, path.encode(), size, 0)
    return reductions.rebuild_cuda_tensor, (*kind, *handle, False, *COUNTERS_AND_EVENT)


def new_shared_cuda(device, handle, size, *_):
    """See `torch.UntypedStorage._new_shared_cuda`."""
    assert device == 0
    return mapped(handle.decode(), size).untyped_storage()
