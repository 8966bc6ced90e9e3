"""Whole runs on a cluster whose GPUs are the host's memory.

Learners compute there, engines on CPUs; weights go over NCCL from GPU to GPU, and over CUDA IPC
where both share one.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.host_gpu.build import library
from tests.places import PROJECT
from tests.system.program import PATIENCE_SECONDS, SMALL, lines_of
from tests.system.ray_node import RayNode, environment, free_ports

pytestmark = pytest.mark.system

WORKERS = PROJECT / "tests" / "host_gpu" / "workers"
TOKEN = secrets.token_hex(16)
ON_GPUS = {
    "DS_ACCELERATOR": "cuda",
    "PYTHONPATH": os.pathsep.join([str(WORKERS), str(PROJECT)]),
    # Or the engine's worker is one more process that imports vLLM.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
ENGINE = [
    # The engine for CPUs cannot compute the prompt of a request that has a seed in parts.
    "rollout.engine.max_num_batched_tokens=60000",
    "rollout.engine.enforce_eager=true",
]


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A file with a line for everybody who joined a group over NCCL."""
    path = tmp_path_factory.mktemp("nccl") / "notes"
    path.touch()
    return path


@pytest.fixture(scope="module")
def gpus(notes):
    """The address of a cluster that has three."""
    paths = {
        "HOST_GPU": library("device"),
        "HOST_NCCL_NOTES": notes,
        "VLLM_NCCL_SO_PATH": library("nccl"),
    }
    changes = ON_GPUS | {name: str(path) for name, path in paths.items()}
    # Ray's sockets lie below this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        port = free_ports(1)[0]
        head = RayNode(
            Path(folder) / "head.log",
            [
                *("--head", "--include-dashboard=false", f"--port={port}"),
                *(f"--temp-dir={folder}", "--num-cpus=4", "--num-gpus=3"),
                "--object-store-memory=200000000",
            ],
            environment(RAY_AUTH_TOKEN=TOKEN, **changes),
        )
        try:
            head.await_start()
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()


def train(address, run_dir, *overrides):
    where = (f"resources.address={address}", "resources.use_gpu=true", f"run_dir={run_dir}")
    done = subprocess.run(
        [sys.executable, "-m", "launch.train", *SMALL, *ENGINE, *where, *overrides],
        cwd=PROJECT,
        env=environment(RAY_AUTH_TOKEN=TOKEN),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, lines_of(run_dir)


def assert_engines_follow(steps):
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert max(step["parity/max_logprob_difference"] for step in steps) < 1e-4
    assert sum(step["learner/optimizer_steps"] for step in steps) > 0


def test_weights_of_two_learners_go_over_nccl(gpus, notes, tmp_path):
    shards = ("resources.num_learners=2", "learner.zero_stage=3")
    _, steps = train(gpus, tmp_path / "run", *shards, "loop.num_steps=3")
    assert sorted(notes.read_text().splitlines()) == ["0 of 2", "1 of 2"], "learner and engine"
    assert_engines_follow(steps)


def test_weights_on_a_shared_gpu_go_over_cuda_ipc(gpus, notes, tmp_path):
    shared, joined = "resources.share_gpus=true", notes.read_text()
    out, steps = train(gpus, tmp_path / "run", shared, "loop.num_steps=3")
    assert "weights travel over CUDA IPC" in out and notes.read_text() == joined
    assert_engines_follow(steps)
