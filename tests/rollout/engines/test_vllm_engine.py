"""What an engine is asked for."""

import asyncio
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rollout.config import EngineConfig
from rollout.engines.vllm_engine import (
    CPU_HEAD_SIZES,
    VLLMEngine,
    check_heads,
    engine_arguments,
)
from rollout.progress import StalledError
from rollout.stopping import Stopping
from tests.places import PROJECT


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
    return engine_arguments(EngineConfig(), **(settings | changes))


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


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_room_for_adapters_is_of_a_size_that_vllm_knows(rank: int, room: int) -> None:
    from vllm.config.lora import MaxLoRARanks

    found = arguments(adapter_rank=rank)
    assert (found["enable_lora"], found["max_loras"], found["max_lora_rank"]) == (True, 1, room)
    assert room in get_args(MaxLoRARanks)


@pytest.mark.system
def test_an_engine_scores_and_tells_tokens_that_arrive_from_tokens_that_do_not() -> None:
    model = str(PROJECT / "rollout/tasks/chain_model")
    settings = EngineConfig(max_num_seqs=8, kv_cache_gib=1.0, enforce_eager=True)
    asked = engine_arguments(
        settings, model_path=model, dtype="float32", float32_head=False, max_model_len=512,
        tensor_parallel_size=1, on_gpu=False, seed=0,
    )  # fmt: skip
    prompt = np.arange(1, 9, dtype=np.int32)

    async def scenario() -> None:
        engine = VLLMEngine(asked, num_threads=1, stopping=Stopping(()), deadline_seconds=8.0)

        async def generate(seed: int) -> int:
            found = await engine.generate(prompt, max_tokens=400, temperature=1.0, seed=seed)
            return len(found.token_ids)

        async def seen_during(work: asyncio.Future[list[int]]) -> list[dict[str, int]]:
            seen = []
            while not work.done():
                seen.append(engine._num_tokens())
                await asyncio.sleep(0.01)
            return seen

        try:
            await engine.warm_up()
            found = await engine.generate(prompt, max_tokens=20, temperature=1.0, seed=0)
            text = np.concatenate([prompt, found.token_ids])
            scored, version = await engine.score(text, len(found.token_ids))
            assert np.abs(scored - found.rollout_logprobs).max() < 1e-5
            assert version == 0
            several = asyncio.gather(*(generate(seed) for seed in range(24)))
            seen = await seen_during(several)
            # Those that wait for a slot are there too, and what arrives is seen before the end.
            assert max(map(len, seen)) > settings.max_num_seqs
            assert 0 < min(max(found.values()) for found in seen if any(found.values())) < 400
            assert min(await several) > 0
            # It stops behind our back.
            await engine._llm.pause_generation(mode="keep")
            with pytest.raises(StalledError, match="no token for 8 s"):
                await generate(1)
            await engine._llm.resume_generation()
            assert await generate(2) > 0
            assert engine._num_tokens() == {}
        finally:
            await engine.close()

    asyncio.run(scenario())


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
