"""Model folders as people have them: small random weights, a tokenizer, and what they say of both.

The kinds differ in architecture; the variants in what stands in the folder beside the weights.
"""

import json
from pathlib import Path
from typing import Any

from launch.models.warmstart import SPECIAL_TOKENS

BEGIN, TURN, THINK = "<|begin|>", "<|turn|>", "<think>"
NUM_TOKENS = len(SPECIAL_TOKENS) + 256
PADDED = 320
"""Rows of the embedding, more than the tokenizer has tokens."""
SIZES = {
    "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": PADDED, "max_position_embeddings": 512,
}  # fmt: skip
# Heads of 32, which the engine's CPU kernels know.
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 32}
WINDOW = {"sliding_window": 24}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", GROUPED | WINDOW),
    "qwen3_moe": (
        "Qwen3Moe",
        GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "qwen2": ("Qwen2", SIZES | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", GROUPED),
    "gpt2": ("GPT2", {"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": PADDED,
                      "n_positions": 512}),
    "gpt_neox": ("GPTNeoX", SIZES),
    "gemma": ("Gemma", GROUPED),
    "gemma2": ("Gemma2", GROUPED | WINDOW | {"query_pre_attn_scalar": 32}),
    "gemma3": (
        "Gemma3Text",
        GROUPED
        | WINDOW
        | {"query_pre_attn_scalar": 32, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi": ("Phi", SIZES),
    "phi3": ("Phi3", SIZES | {"num_key_value_heads": 2} | WINDOW),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2,
                                      "sliding_window": None}),
}  # fmt: skip
TEMPLATES = {
    "ends_with_eos": "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "ends_with_turn": "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + "
    "m['content'] + ' <|turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "thinks": "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}",
    "has_no_end": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}
"""Chat templates, by how they end the assistant's turn."""


def make_tokenizer(
    template: str = "ends_with_eos", *, pad: bool = True, begins: bool = False
) -> Any:
    """Make a byte-level tokenizer.

    Args:
        template: One of `TEMPLATES`.
        pad: Whether it has a pad token.
        begins: Whether it puts its beginning-of-sequence token before a text, and its
            end-of-sequence token behind it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([*SPECIAL_TOKENS, BEGIN, TURN])
    core.add_tokens([THINK, "</think>"])
    if begins:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A <|end|>", special_tokens=[
                (token, core.token_to_id(token)) for token in (BEGIN, "<|end|>")
            ],
        )  # fmt: skip
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>", TURN],
        chat_template=TEMPLATES[template],
        clean_up_tokenization_spaces=False,
        **({"pad_token": "<|pad|>"} if pad else {}),
    )


def make_folder(
    path: Path,
    kind: str = "llama",
    *,
    dtype: str = "float32",
    num_shards: int = 1,
    tokenizer: Any = None,
    generation: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Make a model folder.

    Args:
        path: The folder.
        kind: One of `KINDS`.
        dtype: The weights' precision.
        num_shards: Files of weights, about.
        tokenizer: From `make_tokenizer`; None for the plain one.
        generation: Content of generation_config.json; None for what transformers writes.
        settings: Laid over the kind's.
    """
    import torch
    import transformers

    prefix, sizes = KINDS[kind]
    tokens = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": 1}
    config = getattr(transformers, f"{prefix}Config")(**(tokens | sizes | settings))
    torch.manual_seed(7)
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
    model = model.to(getattr(torch, dtype))
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    model.save_pretrained(path, max_shard_size=-(-size // num_shards))
    (tokenizer or make_tokenizer()).save_pretrained(path)
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path
