"""What vLLM is asked for: the arguments of one engine, and how its responses end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from rollout.config import ADAPTER_RANKS, EngineConfig
from rollout.loading import expect_no_triton
from rollout.stopping import Stopping

CPU_KV_CACHE_GIB = 4.0
"""Keys and values on CPUs when nothing is set; vLLM would take nearly all of the memory."""


CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of attention heads that vLLM's CPU kernels know."""


CPU_BLOCK_TOKENS = 32
"""Only whole blocks are cached, and vLLM's have 128 tokens on CPUs: of shorter prompts and turns
nothing would be. Its kernels there want multiples of 32."""


def engine_arguments(
    config: EngineConfig,
    *,
    model_path: str,
    dtype: str,
    float32_head: bool,
    max_model_len: int,
    tensor_parallel_size: int,
    on_gpu: bool,
    weight_backend: str | None = None,
    adapter_rank: int = 0,
    sleeps: bool = False,
    seed: int,
) -> dict[str, Any]:
    """Return the arguments of vLLM's `AsyncEngineArgs` for one engine.

    Args:
        config: Engine settings.
        model_path: Local Hugging Face folder.
        dtype: "float32", "bfloat16" or "float16".
        float32_head: Whether logits are computed in float32, whatever the dtype.
        max_model_len: Longest prompt plus response, tokens.
        tensor_parallel_size: GPUs that hold one copy of the model.
        on_gpu: False selects the CPU's threads and settings.
        weight_backend: "nccl" or "gloo" joins weight transfer over it; the head is then untied,
            and the engine's output means nothing before the first publish. None joins none.
        adapter_rank: Rank of the adapters that it receives instead, at most the last of
            `ADAPTER_RANKS`; 0 for none.
        sleeps: Whether it gives its memory back at times.
        seed: Seed of requests that carry none.

    Raises:
        ValueError: If `config.vllm` has one that is set here.
    """
    arguments: dict[str, Any] = {
        "model": model_path,
        "tokenizer": model_path,
        "dtype": dtype,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_num_batched_tokens, max_model_len),
        "tensor_parallel_size": tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": config.prefix_caching,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "seed": seed,
    }
    arguments |= _gpu_arguments(arguments, config, sleeps) if on_gpu else _cpu_arguments(config)
    overrides: dict[str, Any] = {"head_dtype": "float32"} if float32_head else {}
    if weight_backend is not None:
        arguments["weight_transfer_config"] = {"backend": weight_backend}
        overrides["tie_word_embeddings"] = False
    if adapter_rank:
        arguments |= _adapter_arguments(adapter_rank)
    arguments |= {"hf_overrides": overrides} if overrides else {}
    return _with_further(arguments, config.vllm)


def _adapter_arguments(rank: int) -> dict[str, Any]:
    largest = next(each for each in ADAPTER_RANKS if each >= rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": largest}


def _with_further(arguments: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    where = "CPUs" if on_cpu(arguments) else "GPUs"
    for name, value in asked.items():
        if name in arguments:
            raise ValueError(
                f"rollout.engine.vllm.{name} must not be set where engines run on {where}, "
                f"where it is {arguments[name]!r}; got {value!r}"
            )
    return {**arguments, **asked}


def check_names(names: Collection[str]) -> None:
    """Refuse arguments of vLLM's engine that it does not have.

    Raises:
        ValueError: In one sentence that begins with "rollout.engine.vllm".
    """
    if not names:
        return
    expect_no_triton()
    # Some seconds, for those who want it.
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = [each.name for each in fields(AsyncEngineArgs)]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                "rollout.engine.vllm must have arguments of vLLM's AsyncEngineArgs, "
                f"got {name!r}{meant}"
            )


def stop_arguments(stopping: Stopping) -> dict[str, Any]:
    """Return what vLLM's `SamplingParams` are to say about stopping.

    Text is made only where a text can end a response, and then with special tokens in it, so that
    all of what was sampled is searched. vLLM keeps the token that completes a text, as it keeps a
    stop token.
    """
    return {
        "stop_token_ids": list(stopping.token_ids),
        # vLLM adds the model's own ends, even where nothing is to end a response.
        "ignore_eos": not stopping.token_ids and not stopping.strings,
        "stop": list(stopping.strings),
        "detokenize": bool(stopping.strings),
        "skip_special_tokens": not stopping.strings,
    }


def on_cpu(arguments: Mapping[str, Any]) -> bool:
    """Say whether an engine with these arguments is one process on CPUs."""
    return arguments.get("distributed_executor_backend") == "uni"


def check_heads(model_path: str) -> None:
    """Refuse a model with attention heads of a size that vLLM has no CPU kernel for.

    vLLM itself would only notice at the first request, and end.

    Args:
        model_path: Local Hugging Face folder.

    Raises:
        ValueError: In one sentence that begins with "model.path".
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(
        model_path, local_files_only=True, trust_remote_code=False
    ).get_text_config()
    size = getattr(config, "head_dim", None)
    if size is None and getattr(config, "num_attention_heads", None):
        size = config.hidden_size // config.num_attention_heads
    if size is not None and size not in CPU_HEAD_SIZES:
        raise ValueError(
            "model.path must hold a model with attention heads of "
            f"{', '.join(map(str, CPU_HEAD_SIZES))} dimensions when engines run on CPUs; choose "
            f"another model or run on GPUs, got {size}"
        )


def _gpu_arguments(
    arguments: Mapping[str, Any], config: EngineConfig, sleeps: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gpu_memory_utilization": config.gpu_memory_utilization,
        # vLLM refuses it on CPUs, where the calls do nothing.
        "enable_sleep_mode": sleeps,
    }
    if config.kv_cache_gib is not None:
        found["kv_cache_memory_bytes"] = int(config.kv_cache_gib * 2**30)
    if arguments["tensor_parallel_size"] > 1:
        # In an actor of a placement group vLLM would take Ray, which wants a bundle for every GPU.
        found["distributed_executor_backend"] = "mp"
    return found


def _cpu_arguments(config: EngineConfig) -> dict[str, Any]:
    found = {
        "kv_cache_memory_bytes": int((config.kv_cache_gib or CPU_KV_CACHE_GIB) * 2**30),
        # A partly computed prompt of a request with a seed kills the CPU worker: vLLM then rewinds
        # the request's random generator, which torch cannot do on CPU.
        "enable_chunked_prefill": False,
        "distributed_executor_backend": "uni",
    }
    if config.prefix_caching:
        found["block_size"] = CPU_BLOCK_TOKENS
    return found
