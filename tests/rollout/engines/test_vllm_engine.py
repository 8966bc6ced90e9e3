"""What an engine is asked for."""

from typing import get_args

import pytest

from rollout.config import EngineConfig
from rollout.engines.vllm_engine import engine_arguments


def arguments(**changes: object) -> dict[str, object]:
    settings: dict[str, object] = {
        "model_path": "model",
        "dtype": "bfloat16",
        "float32_head": False,
        "max_model_len": 64,
        "tensor_parallel_size": 1,
        "on_gpu": False,
        "receives_weights": False,
        "seed": 0,
    }
    return engine_arguments(EngineConfig(), **(settings | changes))


@pytest.mark.parametrize("receives_weights", [False, True])
@pytest.mark.parametrize("float32_head", [False, True])
def test_overrides_of_the_models_config(receives_weights: bool, float32_head: bool) -> None:
    untied = {"tie_word_embeddings": False} if receives_weights else {}
    wide = {"head_dtype": "float32"} if float32_head else {}
    found = arguments(receives_weights=receives_weights, float32_head=float32_head)
    assert found.get("hf_overrides", {}) == untied | wide
    assert "enable_lora" not in found


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_room_for_adapters_is_of_a_size_that_vllm_knows(rank: int, room: int) -> None:
    from vllm.config.lora import MaxLoRARanks

    found = arguments(adapter_rank=rank)
    assert (found["enable_lora"], found["max_loras"], found["max_lora_rank"]) == (True, 1, room)
    assert room in get_args(MaxLoRARanks)
