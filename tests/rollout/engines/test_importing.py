"""What an engine's process finds in its environment."""

import os

import pytest

from rollout.config import EngineConfig
from rollout.engines import files, fork_server, importing
from rollout.engines.arguments import engine_arguments


@pytest.fixture
def environment(monkeypatch):
    """As Ray leaves it to an actor."""
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "2"})
    monkeypatch.setattr(fork_server, "begin", lambda *, compiling: None)
    monkeypatch.setattr(files, "folder", lambda: "/its/own")
    return os.environ


def arguments(dtype="float32", on_gpu=True):
    return engine_arguments(
        EngineConfig(), model_path="model", dtype=dtype, float32_head=False, max_model_len=64,
        tensor_parallel_size=1, on_gpu=on_gpu, seed=0,
    )  # fmt: skip


def test_attention_in_float32_is_in_float32(environment):
    importing.begin_importing(arguments("bfloat16"), 1)
    assert "TRITON_F32_DEFAULT" not in environment
    importing.begin_importing(arguments(), 1)
    assert environment["TRITON_F32_DEFAULT"] == "ieee"
    environment["TRITON_F32_DEFAULT"] = "tf32x3"
    importing.begin_importing(arguments(), 1)
    assert environment["TRITON_F32_DEFAULT"] == "tf32x3"


def test_triton_reads_it_and_keeps_kernels_apart_by_it(monkeypatch):
    from triton import knobs
    from triton._C.libtriton import get_cache_invalidating_env_vars

    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")
    assert knobs.language.fp32_default == "ieee"
    assert get_cache_invalidating_env_vars()["TRITON_F32_DEFAULT"] == "ieee"


def test_on_gpus_vllm_chooses_the_threads_of_its_processes_alone(environment):
    assert importing.begin_importing(arguments(), 3) is False
    with importing.threads_chosen_by_vllm():
        assert "OMP_NUM_THREADS" not in environment
    # Processes of rewards begin at any time.
    assert environment["OMP_NUM_THREADS"] == "3"


def test_on_cpus_an_engine_is_one_process_with_its_threads(environment):
    assert importing.begin_importing(arguments(on_gpu=False), 3) is True
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["VLLM_RPC_BASE_PATH"] == "/its/own"
