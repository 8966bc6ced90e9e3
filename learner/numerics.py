"""How a policy's log-probabilities are computed, wherever the learner loads one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numerics:
    """Says precision, temperature, positions: the engines' own, so that learner and engines agree.

    Example:
        Numerics(dtype="bfloat16", temperature=1.0, float32_head=True)
    """

    dtype: str
    """Precision of the weights, a name in torch: "float32", or with a ZeRO stage of at least 1
    "bfloat16" or "float16"."""
    temperature: float
    """Sampling temperature of the rollouts, which divides the logits; positive."""
    float32_head: bool = False
    """Whether logits are computed in float32, whatever the dtype."""
    max_model_len: int | None = None
    """Tokens of the longest text that engines take; None for all that the model has positions for.
    It decides about the positions of models with LongRoPE (`learner.positions`)."""
