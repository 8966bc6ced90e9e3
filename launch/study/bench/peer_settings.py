"""Our settings in the words of TRL's GRPOTrainer, and a refusal of what it has no words for.

    RunConfig of plain GRPO -> require_matched -> settings -> keyword arguments of trl.GRPOConfig

What is the same on both sides: model, precision, prompts, rewards, responses per prompt and prompts
per step, longest response, temperature, loss (one clipped ratio a token, the mean of each
response's tokens, then of responses), advantages, AdamW with its learning rate, warm-up and
clipping, and the seed. Names and defaults are those of TRL 1.16.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from conf.schema import RunConfig
from cost.advantages.within_group import GroupStandardised
from cost.aggregations import SequenceMean
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws
from cost.thinning.thinning import KeepAll
from launch.cli.refusals import UserError
from learner.corrections import NoCorrection
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.optimizers import AdamW
from rollout.environments import SingleTurn

PLAIN = (
    "recipe=grpo",
    # TRL's deviation of a group, which has no setting.
    "scheduler.advantage.ddof=1",
    "scheduler.advantage.epsilon=1.0e-4",
)
"""Overrides that make a run the plain GRPO that TRL does."""
PLUGS: dict[str, type] = {
    "environment": SingleTurn,
    "objective": ClippedSurrogate,
    "scheduler.allocator": Uniform,
    "scheduler.thinning": KeepAll,
    "scheduler.advantage": GroupStandardised,
    "scheduler.aggregation": SequenceMean,
    "learner.chosen_optimizer": AdamW,
    "learner.correction": NoCorrection,
}
"""What the plugs of a run must be to be matched."""
VALUES: dict[str, Any] = {
    "rollout.branching": None,
    "rollout.overlong.buffer_share": 0,
    "rollout.overlong.filter_truncated": False,
    "rollout.overlong.mask_truncated": False,
    "rollout.permute_rewards": False,
    "scheduler.entropy_control": None,
    "scheduler.clipping": None,
    "learner.num_minibatches": 1,
    "learner.num_epochs": 1,
    "learner.curvature.masks": False,
    "learner.entropy_coefficient": 0,
    "learner.reference.kl_coefficient": 0,
    "learner.lora.rank": 0,
    "model.float32_head": False,
    "model.stop_strings": [],
}
"""The same of its other settings."""


def require_matched(config: RunConfig) -> None:
    """Refuse a run of plain GRPO that TRL is not asked to do likewise.

    Raises:
        UserError: With the first setting that has no counterpart.
    """
    for key, kind in PLUGS.items():
        if not isinstance(found := attrgetter(key)(config), kind):
            raise _unmatched(key, kind.__name__, found)
    if not isinstance(found := config.scheduler.allocator.draws, EpochDraws):
        raise _unmatched("scheduler.allocator.draws", EpochDraws.__name__, found)
    for key, value in VALUES.items():
        if (found := attrgetter(key)(config)) != value:
            raise _unmatched(key, repr(value), found)
    if config.model.dtype == "float16":
        raise _unmatched("model.dtype", "float32 or bfloat16", config.model.dtype)


def _unmatched(key: str, needed: str, found: object) -> UserError:
    key = key.replace("chosen_optimizer", "optimizer")
    return UserError(
        f"{key} must be {needed} beside TRL, whose run has to do the same work, got {found!r}"
    )


def settings(config: RunConfig) -> dict[str, Any]:
    """Return what TRL's GRPOConfig is made with, but for its folder.

    One call of the model generates a step's responses, and one trains on them: what takes least
    time where they fit. The shape of the warm-up is no setting, see `peer_trl`.

    Args:
        config: Of plain GRPO, as `require_matched` wants it.
    """
    scheduler, learner, optimizer = (
        config.scheduler,
        config.learner,
        config.learner.chosen_optimizer,
    )
    return {
        "seed": config.seed,
        "max_steps": config.loop.num_steps,
        "num_generations": scheduler.group_size,
        "per_device_train_batch_size": scheduler.tickets_per_step * scheduler.group_size,
        "gradient_accumulation_steps": 1,
        "num_iterations": learner.num_epochs,
        "max_completion_length": config.rollout.max_tokens,
        "temperature": config.rollout.temperature,
        "top_p": config.rollout.top_p,
        "top_k": config.rollout.top_k,
        "repetition_penalty": config.rollout.repetition_penalty,
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "scale_rewards": "group",
        "epsilon": config.objective.clip_low,
        "epsilon_high": config.objective.clip_high,
        "delta": config.objective.dual_clip,
        "beta": 0.0,
        "optim": "adamw_torch",
        "learning_rate": learner.lr,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": learner.max_grad_norm,
        "bf16": config.model.dtype == "bfloat16",
        "gradient_checkpointing": learner.gradient_checkpointing,
        "use_cpu": True,
        "use_vllm": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
    }
