"""The price in floating-point operations, from the shape of the model."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cost.prompts import ExpectedTurns
from cost.types import FloatArray, IntArray

SHAPE_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
}
"""The key of a model's config.json that must give each setting."""
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok")


@dataclass(frozen=True, slots=True)
class FlopsPrice:
    """Floating-point operations of a dense decoder, from its shape; h = hidden_size and so on.

    A multiplication and its addition count as 2, so a token costs 2 a weight:

        linear      2 layers (2 h head_dim (heads + kv_heads) + mlp_matrices h intermediate)
        head        2 h vocab                      response tokens only, in engine and learner
        attention   4 layers heads head_dim t      for the token at position t, hence quadratic

    This is exact for causal attention over the whole context; norms, softmax and embeddings are
    left out.
    The quadratic part is priced at the expected length, not the expected square, for draws.
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
    prefix_caching: bool = True
    """Whether the engine computes a prompt once for the whole group."""
    gradient_checkpointing: bool = False
    """Whether the learner computes the forward pass twice."""
    trained_share: float = 1.0
    """Mean number of passes of the learner over a generated response, not negative: the share that
    thinning keeps, times the passes over a batch. Draws alone are priced with it."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        sizes = (*SHAPE_KEYS, "num_kv_heads", "head_dim", "mlp_matrices")
        for key in sizes:
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"price.{key} must be a positive whole number, got {value!r}")
        if not 0 <= self.trained_share < math.inf:
            raise ValueError(
                f"price.trained_share must be finite and not negative, got {self.trained_share!r}"
            )

    @classmethod
    def of_model(cls, model_path: str, **settings: Any) -> "FlopsPrice":
        """Take the shape from the config.json of a model folder in Hugging Face format.

        Args:
            model_path: The folder.
            settings: Fields of the price that are not the model's shape.

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
        return cls(**shape, **settings)

    def of_drawing(
        self, prompt_tokens: IntArray, lengths: FloatArray, group_size: int
    ) -> FloatArray:
        """Return float64 FLOPs of a response, its share of the prompt and its expected training."""
        prompt_share = 1.0 / group_size if self.prefix_caching else 1.0
        return (
            prompt_share * self._prompt(prompt_tokens)
            + self._response(prompt_tokens, lengths)
            + self.trained_share * self.of_training(prompt_tokens, lengths)
        )

    def of_turns(
        self, prompt_tokens: IntArray, lengths: FloatArray, turns: ExpectedTurns
    ) -> FloatArray:
        """Return float64 FLOPs of what is prefilled between turns, less the head that it skips.

        Those tokens stand, on average, in the middle of the response. Tools take no FLOPs.
        """
        again = turns.prefill_tokens - turns.environment_tokens
        at = np.asarray(prompt_tokens, dtype=np.float64) + lengths / 2
        head = 2.0 * self.hidden_size * self.vocab_size
        flops: FloatArray = again * (self._linear + 2.0 * self._attention * at)
        return flops - head * turns.environment_tokens

    def of_training(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return float64 FLOPs of forward and backward (twice the forward) over both."""
        forward = self._prompt(prompt_tokens) + self._response(prompt_tokens, lengths)
        return (4.0 if self.gradient_checkpointing else 3.0) * forward

    def _prompt(self, prompt_tokens: IntArray) -> FloatArray:
        tokens = np.asarray(prompt_tokens, dtype=np.float64)
        return self._linear * tokens + self._attention * tokens * (tokens + 1)

    def _response(self, prompt_tokens: IntArray, lengths: IntArray | FloatArray) -> FloatArray:
        """Return FLOPs of the response's forward pass, the prompt's keys and values at hand."""
        prompt = np.asarray(prompt_tokens, dtype=np.float64)
        length = np.asarray(lengths, dtype=np.float64)
        # Positions prompt + 1 ... prompt + length.
        attention = self._attention * length * (2 * prompt + length + 1)
        return (self._linear + 2.0 * self.hidden_size * self.vocab_size) * length + attention

    @property
    def _linear(self) -> float:
        """FLOPs of a token outside attention and head."""
        projections = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        mlp = self.mlp_matrices * self.hidden_size * self.intermediate_size
        return 2.0 * self.num_layers * (projections + mlp)

    @property
    def _attention(self) -> float:
        """FLOPs of attention over T positions, divided by T (T + 1)."""
        return 2.0 * self.num_layers * self.num_heads * self.head_dim
