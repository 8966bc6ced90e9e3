"""What an engine is asked for."""

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
