"""What an engine is asked for."""

from pathlib import Path
from typing import get_args

import pytest

from rollout.config import SET_BY, EngineConfig
from rollout.engines.arguments import (
    CPU_HEAD_SIZES,
    check_heads,
    check_names,
    engine_arguments,
    on_cpu,
)


def arguments(**changes: object) -> dict[str, object]:
    settings: dict[str, object] = {
        "model_path": "model",
        "dtype": "bfloat16",
        "float32_head": False,
        "max_model_len": 64,
        "tensor_parallel_size": 1,
        "on_gpu": False,
        "seed": 0,
    }
    config = changes.pop("config", EngineConfig())
    return engine_arguments(config, **(settings | changes))


@pytest.mark.parametrize("weight_backend", [None, "gloo", "nccl"])
@pytest.mark.parametrize("float32_head", [False, True])
def test_overrides_of_the_models_config(weight_backend: str | None, float32_head: bool) -> None:
    untied = {"tie_word_embeddings": False} if weight_backend else {}
    wide = {"head_dtype": "float32"} if float32_head else {}
    found = arguments(weight_backend=weight_backend, float32_head=float32_head)
    assert found.get("hf_overrides", {}) == untied | wide
    assert found.get("weight_transfer_config") == (
        {"backend": weight_backend} if weight_backend else None
    )
    assert "enable_lora" not in found


def test_short_prompts_can_be_cached_on_cpus_too() -> None:
    assert arguments()["block_size"] == 32
    assert "block_size" not in arguments(on_gpu=True)
    without = engine_arguments(
        EngineConfig(prefix_caching=False), model_path="model", dtype="float32",
        float32_head=False, max_model_len=64, tensor_parallel_size=1, on_gpu=False, seed=0,
    )  # fmt: skip
    assert "block_size" not in without


def test_further_arguments_of_vllm_are_passed_on() -> None:
    config = EngineConfig(vllm={"kv_cache_dtype": "fp8", "block_size": 64})
    found = arguments(config=config, on_gpu=True)
    assert (found["kv_cache_dtype"], found["block_size"]) == ("fp8", 64)
    with pytest.raises(
        ValueError, match=r"^rollout\.engine\.vllm\.block_size .* CPUs.* 32; got 64"
    ):
        arguments(config=config)


def test_whatever_an_engine_is_asked_for_is_an_argument_of_vllms() -> None:
    full = arguments(on_gpu=True, weight_backend="nccl", adapter_rank=8, float32_head=True)
    check_names([*arguments(), *full, *SET_BY])
    check_names(["kv_cache_dtype"])
    check_names([])
    with pytest.raises(
        ValueError, match=r"AsyncEngineArgs, got 'kv_cache_type'; did you mean kv_cache_dtype\?"
    ):
        check_names(["kv_cache_type"])
    # Nobody can set those that are set here.
    assert set(full) <= set(SET_BY)


def test_the_workers_of_an_engine_are_processes_of_its_actor() -> None:
    from vllm.config import ParallelConfig

    found = arguments(on_gpu=True, tensor_parallel_size=2)
    names = ("tensor_parallel_size", "distributed_executor_backend")
    asked = {name: found[name] for name in names if name in found}
    # As vLLM finds itself in an actor that has a bundle of two GPUs.
    parallel = ParallelConfig(placement_group=object(), **asked)  # type: ignore[arg-type]
    assert parallel.distributed_executor_backend == "mp"
    assert "distributed_executor_backend" not in arguments(on_gpu=True)
    assert on_cpu(arguments()) and not on_cpu(found)


def test_vllm_is_asked_for_sleep_where_it_knows_it() -> None:
    assert arguments(sleeps=True, on_gpu=True)["enable_sleep_mode"] is True
    assert arguments(on_gpu=True)["enable_sleep_mode"] is False
    assert "enable_sleep_mode" not in arguments(sleeps=True)


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_room_for_adapters_is_of_a_size_that_vllm_knows(rank: int, room: int) -> None:
    from vllm.config.lora import MaxLoRARanks

    found = arguments(adapter_rank=rank)
    assert (found["enable_lora"], found["max_loras"], found["max_lora_rank"]) == (True, 1, room)
    assert room in get_args(MaxLoRARanks)


def test_heads_without_a_kernel_on_cpus_are_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, LlamaConfig

    for config in (
        LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=32),
        LlamaConfig(hidden_size=256, num_attention_heads=4),
        GPT2Config(n_embd=128, n_head=4),
    ):
        config.save_pretrained(tmp_path)
        check_heads(str(tmp_path))
    for config in (
        LlamaConfig(hidden_size=64, num_attention_heads=4),
        GPT2Config(n_embd=64, n_head=4),
    ):
        config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"^model\.path must .* on CPUs; choose.*got 16$"):
            check_heads(str(tmp_path))


def test_the_sizes_of_heads_are_those_of_vllm() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert list(CPU_HEAD_SIZES) == CPUAttentionBackend.get_supported_head_sizes()
