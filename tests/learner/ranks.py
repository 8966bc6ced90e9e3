"""Programs that start ranks as forks of their own: what takes long is imported once.

test -- run_program --> program: imports -- on_ranks, phase after phase --> ranks
"""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from learner.lora import LoraConfig, attach
from tests.host_gpu.build import library
from tests.places import PROJECT

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(PROJECT),
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}


def run_program(name: str, folder: Path, *, on_gpu: bool = False) -> None:
    """Run a program of this folder, `python NAME FOLDER`, to its end.

    With `on_gpu` its ranks see the GPU of `tests.host_gpu`.
    """
    gpu = {"HOST_GPU": str(library()), "DS_ACCELERATOR": "cuda"} if on_gpu else {}
    way = ["-m", "tests.host_gpu"] if on_gpu else []
    done = subprocess.run(
        [sys.executable, *way, str(Path(__file__).with_name(name)), str(folder)],
        env=os.environ | ENVIRONMENT | gpu,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def import_all(model: str) -> None:
    """Bring in what a policy, with adapters or without, brings in: the ranks need not."""
    attach(AutoModelForCausalLM.from_pretrained(model), LoraConfig(rank=1))


def on_ranks(num_ranks: int, work: Callable[..., None], *args: Any) -> None:
    """Have all ranks do the same, each in a fresh process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=_in_rank, args=(rank, num_ranks, port, work, *args))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=500)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    if any(codes):
        sys.exit(f"{num_ranks} ranks ended with {codes}")


def _in_rank(rank: int, num_ranks: int, port: int, work: Callable[..., None], *args: Any) -> None:
    # transformers would load in threads, which find torch's pool of the process that was forked.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_RANK="0",
        LOCAL_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    work(*args)
    torch.distributed.barrier()
    # Without the end of an interpreter that was not begun here.
    os._exit(0)
