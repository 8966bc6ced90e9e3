"""DeepSpeed's configuration for the learner's, and what a device cannot do."""

from collections.abc import Mapping
from typing import Any

from learner.config import LearnerConfig

BUCKET_VALUES = 20_000_000
"""Gradients that ranks add up at a time. DeepSpeed holds a buffer of so many, by its own setting of
500 million, which are 2 GB in float32, however small the model."""


def check_device(config: LearnerConfig, dtype: str, *, on_gpu: bool) -> None:
    """Refuse what CPUs cannot do.

    Raises:
        ValueError: For float16, and for moving state to where it is already.
    """
    if on_gpu:
        return
    if dtype == "float16":
        raise ValueError(
            "model.dtype must be float32 or bfloat16 where the learner runs on CPUs: DeepSpeed "
            f"trains in float16 on GPUs only, got {dtype!r}"
        )
    for what in ("offload_optimizer", "offload_param"):
        if config.offloads(what):
            raise ValueError(
                f"learner.deepspeed.zero_optimization.{what} must be unset where the learner runs "
                "on CPUs: there is no other memory to spare, got "
                f"{config.deepspeed['zero_optimization'][what]!r}"
            )


def deepspeed_settings(config: LearnerConfig, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration for ours.

    `gradient_accumulation_steps` is 1 whatever the number of rows: the rows of a step vary, and
    `set_gradient_accumulation_boundary` marks the last. The user's own settings are laid over
    ours; those that follow from ours were refused by `LearnerConfig`.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET_VALUES,
        },
        "zero_allow_untested_optimizer": True,
        # Its own CPU optimiser would be compiled at the start, with CUDA's toolkit.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
    if dtype == "float16":
        # Scale 0 is a dynamic one. Without hysteresis each overflow halves it, so that a step is
        # never tried again at the scale that it has just failed at.
        settings["fp16"] = {"enabled": True, "loss_scale": 0, "hysteresis": 1}
    if dtype != "float32":
        # In 16 bits many rows' small gradients would be rounded away.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return _laid_over(settings, config.deepspeed)


def _laid_over(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Join nested settings; where both have a plain value, the second's counts."""
    joined = dict(settings)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _laid_over(joined[key], value) if both else value
    return joined
