"""The shape of a dense decoder, and the floating-point operations of its forward pass.

    config.json -> ModelShape -> FLOPs of a token, of a scored token, of a pair of tokens

Prices, the work that ranks share, and the count of what a run computes all start here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

SHAPE_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
}
"""The key of a model's config.json that must give each setting."""
EXPERT_KEYS = (
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
    "num_experts_per_tok",
)  # fmt: skip
"""Keys of a config.json that say of experts."""
UNGATED = (
    "apertus", "arcee", "biogpt", "fuyu", "gpt_neox", "jais2", "nanochat", "nemotron", "persimmon",
    "phi", "starcoder2",
)  # fmt: skip
"""Kinds of model (`model_type`) whose MLP has two matrices; that of all others has three."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense decoder; h = hidden_size and so on.

    A multiplication and its addition count as 2, so a token costs 2 a weight:

        token    2 layers (2 h head_dim (heads + kv_heads) + mlp_matrices h intermediate)
        head     2 h vocab                  of a token whose logits are computed
        pair     4 layers heads head_dim    of a token and one that it sees, itself included

    This is exact for causal attention over the whole context; kernels may compute masked pairs as
    well, and sliding windows see less. Norms, softmax and embeddings are left out.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the MLP that a token passes; the sum over its experts for a mixture."""
    vocab_size: int
    mlp_matrices: int = 3
    """3 for a gated MLP (Llama, Qwen), 2 for a plain one."""

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        for key in (*SHAPE_KEYS, "num_kv_heads", "head_dim", "mlp_matrices"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"price.{key} must be a positive whole number, got {value!r}")

    @classmethod
    def of_model(cls, model_path: str, **settings: Any) -> Self:
        """Take the shape from the config.json of a model folder in Hugging Face format.

        Args:
            model_path: The folder.
            settings: Fields of a price that are not the model's shape.

        Raises:
            ValueError: If there is no such file, it lacks the shape, or the model has experts, of
                which the file does not say in one way how many a token passes.
        """
        remedy = "or give the shape itself to price._target_=cost.prices.flops.FlopsPrice"
        path = Path(model_path) / "config.json"
        try:
            model: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not JSON"
            raise ValueError(
                f"price.model_path must be a folder with a config.json that can be read ({reason}),"
                f" {remedy}, got {model_path!r}"
            ) from error
        if not isinstance(model, dict):
            model = {}
        missing = [key for key in SHAPE_KEYS.values() if not model.get(key)]
        if missing:
            raise ValueError(
                f"price.model_path must name a model whose config.json has {', '.join(missing)}, "
                f"{remedy}, got {model_path!r}"
            )
        if any(model.get(key) for key in EXPERT_KEYS):
            raise ValueError(
                f"price.model_path must name a model without experts, {remedy} with "
                f"intermediate_size summed over a token's experts, got {model_path!r}"
            )
        shape = {name: model[key] for name, key in SHAPE_KEYS.items()}
        shape["num_kv_heads"] = model.get("num_key_value_heads") or shape["num_heads"]
        shape["head_dim"] = model.get("head_dim") or shape["hidden_size"] // shape["num_heads"]
        if model.get("model_type") in UNGATED:
            shape["mlp_matrices"] = 2
        return cls(**(shape | settings))

    @classmethod
    def found(cls, model_path: str) -> Self | None:
        """Return the shape as `of_model` does; None where the file does not say it."""
        try:
            return cls.of_model(model_path)
        except ValueError:
            return None

    @property
    def token(self) -> float:
        """FLOPs of a token outside attention and head."""
        projections = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        mlp = self.mlp_matrices * self.hidden_size * self.intermediate_size
        return 2.0 * self.num_layers * (projections + mlp)

    @property
    def head(self) -> float:
        """FLOPs of a token's logits."""
        return 2.0 * self.hidden_size * self.vocab_size

    @property
    def pair(self) -> float:
        """FLOPs of attention from a token to one that it sees."""
        return 4.0 * self.num_layers * self.num_heads * self.head_dim
