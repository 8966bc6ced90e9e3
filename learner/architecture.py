"""Whether a model folder holds what can be trained here, told from its config.json alone.

What a configuration does not tell, `learner.packing_check` and `learner.output_head` find out from
the weights when a learner starts.
"""

import json
import math
from pathlib import Path
from typing import Any

from rollout.loading import without_unused

_ALONE = {
    "opt": "positions that are counted from the start of a row",
    "gpt_oss": "attention sinks",
    "lfm2": "convolutions over the row",
    "lfm2_moe": "convolutions over the row",
    "bert": "attention in both directions",
    "minimax": "recurrent layers",
}
"""What packed rows cannot have, by the `model_type` of models whose classes do not say."""
_SILENT_WINDOWS = ("phimoe",)
"""Kinds whose windows stand in masks alone, which packed rows go without."""


def check_architecture(model_path: str, *, trained: bool) -> None:
    """Refuse a model that could not be loaded, or not be trained in packed rows.

    Args:
        model_path: Local Hugging Face folder with a config.json.
        trained: Whether it is to be trained; else an engine loads it, and nobody else.

    Raises:
        ValueError: In one sentence that begins with "model.path" and names the model.
    """
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    kind = settings.get("model_type")
    with without_unused():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in CONFIG_MAPPING:
        raise ValueError(
            "model.path must hold a model whose code is in transformers, for code that comes with "
            "weights (trust_remote_code) is never run; choose another model or convert this one, "
            f"got model_type {kind!r}"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or settings.get("is_encoder_decoder"):
        raise ValueError(
            "model.path must hold a decoder that continues a text (a causal language model); "
            f"choose another model, got model_type {kind!r}"
        )
    if not trained:
        return
    if settings.get("quantization_config"):
        method = settings["quantization_config"].get("quant_method", "unknown")
        raise ValueError(
            "model.path must hold weights of 16 or 32 bits, for quantised ones cannot be trained; "
            f"choose the model that they were made from, got quant_method {method!r}"
        )
    reason = _why_alone(kind, settings)
    if reason is not None:
        raise ValueError(
            "model.path must hold a decoder that scores packed rows as it scores single sequences "
            "(causal attention from position ids alone); choose another architecture, got "
            f"model_type {kind!r} with {reason}"
        )


def _why_alone(kind: str, settings: dict[str, Any]) -> str | None:
    """Name what keeps responses from being packed into one row; None where nothing is known."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if kind in _ALONE:
        return _ALONE[kind]
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.for_model(kind))]
    window = settings.get("sliding_window") or math.inf
    if kind in _SILENT_WINDOWS and window < settings.get("max_position_embeddings", 0):
        return "a sliding window that its layers do not tell attention of"
    if getattr(model, "_is_stateful", False):
        return "recurrent layers"
    if settings.get("alibi") or not getattr(model, "_supports_attention_backend", False):
        return "attention of its own"
    return None


def check_token_ids(model_path: str, largest_token_id: int) -> None:
    """Refuse prompts with tokens that the model has no embedding of.

    Args:
        model_path: Local Hugging Face folder with a config.json.
        largest_token_id: Largest id among the prompts' tokens.

    Raises:
        ValueError: In one sentence that begins with "model.path".
    """
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    size = settings.get("vocab_size") or (settings.get("text_config") or {}).get("vocab_size")
    if size is not None and largest_token_id >= size:
        raise ValueError(
            f"model.path must hold a model with an embedding for every token of its tokenizer, of "
            f"which it has {size}; resize its embeddings or take its own tokenizer, got token "
            f"{largest_token_id}"
        )
