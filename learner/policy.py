"""A model as the learner trains it: packed attention, no chance, checkpointing as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from learner import attention
from learner.config import LearnerConfig
from learner.numerics import Numerics
from learner.output_head import widen_head
from learner.positions import fix_positions
from rollout.loading import without_unused

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_policy(model_path: str, config: LearnerConfig, numerics: Numerics) -> PreTrainedModel:
    """Load a causal language model.

    Args:
        model_path: Local folder with a Hugging Face checkpoint in safetensors.
        config: Says whether activations are checkpointed, and how rows are attended to.
        numerics: Gives dtype, head and positions; the temperature is for whoever takes the logits.

    Raises:
        ValueError: If the head cannot be widened.
    """
    with without_unused():
        from transformers import AutoModelForCausalLM
        from transformers.modeling_layers import GradientCheckpointingLayer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            model_path,
            dtype=getattr(torch, numerics.dtype),
            attn_implementation=attention.register(varlen=config.varlen_attention),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    # As the rollout engine computes: nothing is dropped, and routers draw nothing.
    model.eval()
    fix_positions(model, numerics.max_model_len)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                # Or it keeps its activations. What is inside it stays as it is.
                layer.training = True
    if numerics.float32_head:
        widen_head(model.get_output_embeddings())
    return model
