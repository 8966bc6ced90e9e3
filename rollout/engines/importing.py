"""What the environment of an engine's process holds before vLLM and torch are imported there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rollout.engines import files, fork_server
from rollout.engines.arguments import on_cpu

ONEDNN_CAPACITY = "64"
"""On CPUs oneDNN keeps what it made for every number of tokens that a step has had, up to 1,024 of
them by itself, and the process grows by a GB; so many are those of a dozen numbers."""


def begin_importing(arguments: Mapping[str, Any], num_threads: int) -> bool:
    """Let the engine's process begin to import vLLM, where it can without its arguments.

    What libraries read from the environment when they are imported is set here; the sooner it is
    called the better.

    Args:
        arguments: From `engine_arguments`.
        num_threads: CPU threads of the engine.

    Returns:
        Whether vLLM is to fork its process off the server; see `fork_server`.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if arguments["dtype"] == "float32":
        # In vLLM's attention on GPUs Triton would round float32 to 10 bits of fraction, and
        # log-probabilities be further from the learner's than the parity guard allows.
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_CAPACITY)
    os.environ["VLLM_RPC_BASE_PATH"] = files.folder()
    if not on_cpu(arguments):
        return False
    # Or vLLM puts the CPU worker into a process of its own, and binds its threads to cores that it
    # chooses by itself, the same ones for every engine of a machine. It means nothing else to
    # `AsyncLLM`.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with files.in_folder():
        fork_server.begin(compiling=not arguments["enforce_eager"])
    return True


@contextmanager
def threads_chosen_by_vllm() -> Iterator[None]:
    """Let processes that begin within have as many CPU threads as vLLM wants, on GPUs.

    It loads weights with all there are and goes on with one, unless somebody has set how many.
    """
    before = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
