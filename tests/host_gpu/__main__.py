"""Runs a program where torch has a GPU: `HOST_GPU=LIBRARY python -m tests.host_gpu PROGRAM ...`.

The GPU is the host's memory, see `device.cpp`; LIBRARY is what `build.library` returns.
"""

import runpy
import sys

import tests.host_gpu.torch_cuda  # noqa: F401  # Before torch.
from tests.host_gpu import flash_attention

kernel = flash_attention.register()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
