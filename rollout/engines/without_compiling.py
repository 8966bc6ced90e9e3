"""Imported before vLLM, this turns `torch.compile` off in a process.

An engine that is to run eagerly still compiles a line of its sampler on CPUs, for 2 to 4 seconds.
"""

import os

os.environ["TORCH_COMPILE_DISABLE"] = "1"
