"""Where this folder is on PYTHONPATH, Ray's workers and the engines they start see the host's GPU.

Ray's own processes do not: each would import torch.
"""

import sys

WORKERS = ("default_worker.py", "multiprocessing.spawn")

if any(worker in word for word in sys.orig_argv for worker in WORKERS):
    import tests.host_gpu.torch_cuda  # noqa: F401  # Before torch.
    from tests.host_gpu import flash_attention, ipc, vllm_for_cpus

    kernel = flash_attention.register()
    ipc.register()
    vllm_for_cpus.register()
