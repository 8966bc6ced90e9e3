"""Small models of several architectures, with weights that make distributions uneven."""

from typing import Any

import torch

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 97, "max_position_embeddings": 256,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FULL = ["full_attention"] * 2
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
OF_FOUR = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
          "v_head_dim": 8, "num_key_value_heads": 4}  # fmt: skip
WINDOW = {"sliding_window": 128}
SHORT = {"hidden_size": 32, "vocab_size": 97}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", SIZES | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", GROUPED),
    "gemma": ("Gemma", GROUPED),
    "gemma3": ("Gemma3Text", GROUPED | WINDOW | {"layer_types": FULL}),
    "mistral": ("Mistral", GROUPED | WINDOW),
    "phi3": ("Phi3", SIZES | WINDOW),
    "qwen3_moe": (
        "Qwen3Moe",
        GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "gpt_neox": ("GPTNeoX", SIZES),
    "glm4_moe": (
        "Glm4Moe",
        GROUPED | OF_FOUR | SHARED | {"n_routed_experts": 4},
    ),
    "deepseek_v3": ("DeepseekV3", SIZES | OF_FOUR | SHARED | LATENT | {"n_routed_experts": 4}),
    "phimoe": ("Phimoe", SIZES | EXPERTS | {"num_key_value_heads": 2}),
    "granite": ("Granite", SIZES | {"num_key_value_heads": 2, "logits_scaling": 4.0}),
    "cohere": ("Cohere", SIZES | {"num_key_value_heads": 2, "logit_scale": 0.25}),
    "olmo2": ("Olmo2", SIZES | {"num_key_value_heads": 2}),
    "phi": ("Phi", SIZES),
    "mixtral": ("Mixtral", GROUPED | EXPERTS | {"sliding_window": None}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97}),
    "opt": ("OPT", SIZES | OPT),
    "gemma2": ("Gemma2", GROUPED | WINDOW),
    "gpt_oss": ("GptOss", GROUPED | WINDOW | EXPERTS),
    "mamba": ("Mamba", SHORT | {"num_hidden_layers": 2, "state_size": 4}),
    "bloom": ("Bloom", SHORT | {"n_layer": 2, "n_head": 4}),
}


def small_model(name: str, **settings: Any) -> Any:
    """Make the model; settings are laid over those above."""
    import transformers

    from learner import attention

    prefix, sizes = MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**(TOKENS | sizes | settings))
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention.register()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    # Whose routers draw while they train.
    return model.train(name != "phimoe").float()
