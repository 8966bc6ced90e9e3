"""vLLM's build for CPUs beside the host's GPU: engines compute as ever, weights come as on GPUs."""

import sys
from importlib.util import find_spec

import torch

from tests.host_gpu.torch_cuda import init_on_cpus


def with_a_handle(module):
    """What stands for a stream is one that NCCL may be given."""
    module._StreamPlaceholder.cuda_stream = 0


def in_an_engine(module):
    """Engines on CPUs have their own replacements for streams, and speak over gloo."""
    with_a_handle(module)
    torch.distributed.init_process_group = init_on_cpus


def receiving_on_the_gpu(module):
    """Weights come to where NCCL and CUDA IPC put them; loading them copies them to the host."""
    init = module.WeightTransferEngine.__init__

    def init_on_gpu(engine, config, vllm_config, device, model):
        init(engine, config, vllm_config, torch.device("cuda", 0), model)

    module.WeightTransferEngine.__init__ = init_on_gpu


CHANGES = {
    "vllm.utils.torch_utils": with_a_handle,
    "vllm.v1.worker.cpu.shm": in_an_engine,
    "vllm.distributed.weight_transfer.base": receiving_on_the_gpu,
}
"""Module -> what is done to it as soon as it is imported."""


class Changing:
    """A finder of modules, see `sys.meta_path`."""

    def find_spec(self, name, path=None, target=None):
        """Find what is to be changed, and change it when it has been executed."""
        change = CHANGES.pop(name, None)
        if change is None:
            return None
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def register():
    """Change what of vLLM will be imported."""
    sys.meta_path.insert(0, Changing())
