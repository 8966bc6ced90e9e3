"""Ask TRL's GRPO trainer, its methods called without a model, for losses, advantages, settings."""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from oracle_program import loss_and_gradient, serve, tensor


def load() -> Callable[[dict[str, Any]], Any]:
    """Import TRL and return what answers one job."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda values: values,
        num_processes=1,
        process_index=0,
        reduce=lambda values, reduction: values,
    )

    def trainer(args: dict[str, Any], **fields: Any) -> SimpleNamespace:
        """Return what stands in for a trainer: one process, one micro-batch a step, no extras."""
        return SimpleNamespace(
            _metrics={"train": defaultdict(list)},
            accelerator=accelerator,
            args=SimpleNamespace(**{"steps_per_generation": 1, **args}),
            aux_loss_enabled=False,
            current_gradient_accumulation_steps=1,
            model=SimpleNamespace(training=True),
            **fields,
        )

    def loss(job: dict[str, Any]) -> Any:
        batch = job["batch"]
        mask = tensor(batch["mask"])
        inputs = {
            "prompt_ids": torch.zeros(len(mask), 0, dtype=torch.int64),
            "prompt_mask": torch.zeros(len(mask), 0, dtype=torch.int64),
            "completion_ids": torch.zeros_like(mask),
            "completion_mask": mask,
            "advantages": tensor(batch["advantages"]),
            "old_per_token_logps": tensor(batch["rollout_logprobs"]),
            "ref_per_token_logps": tensor(batch["ref_logprobs"]),
            "num_items_in_batch": mask.sum(),
        }
        args = {
            "delta": job["delta"],
            "sapo_temperature_pos": 1.0,
            "sapo_temperature_neg": 1.05,
            "use_bias_correction_kl": False,
        }
        fields = {
            "_entropy_bonus_enabled": False,
            "beta": 0.0,
            "importance_sampling_level": "token",
            "off_policy_mask_threshold": None,
            "top_entropy_quantile": 1.0,
            "use_vllm": False,
            **job["settings"],
        }

        def value(logprobs: torch.Tensor) -> torch.Tensor:
            stand_in = trainer(args, **fields)
            stand_in._get_per_token_logps_and_entropies = lambda *_, **__: (
                logprobs,
                torch.zeros_like(logprobs),
                None,
            )
            return GRPOTrainer._compute_loss(stand_in, None, inputs)

        return loss_and_gradient(value, batch["learner_logprobs"])

    def advantages(job: dict[str, Any]) -> Any:
        """Let the trainer score given completions; it also corrects for the engine's ratios."""
        rewards = tensor(job["rewards"]).unsqueeze(1)
        trainer_logprobs = tensor(job["trainer_logprobs"])
        num_responses, num_tokens = trainer_logprobs.shape
        completions = [[1] * num_tokens] * num_responses
        stand_in = trainer(
            {
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing_kwargs": None,
                "per_device_train_batch_size": num_responses,
            },
            _calculate_rewards=lambda *_: rewards,
            _generate=lambda _: (
                [[1]] * num_responses,
                completions,
                None,
                completions,
                job["rollout_logprobs"],
                {},
                None,
                None,
            ),
            _get_per_token_logps_and_entropies=lambda *_, **__: (trainer_logprobs, None, None),
            _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
            _pending_extra_logs={},
            _pending_metrics={},
            _tokenizer=SimpleNamespace(pad_token_id=0),
            beta=0.0,
            environment_factories=None,
            environments=None,
            log_multimodal=False,
            mask_truncated_completions=False,
            multi_objective_aggregation="sum_then_normalize",
            num_generations=job["group_size"],
            num_iterations=1,
            pad_to_multiple_of=None,
            reward_func_names=["reward"],
            reward_weights=torch.ones(1, dtype=torch.float64),
            scale_rewards=job["scale_rewards"],
            tools=None,
            use_vllm=True,
            vllm_importance_sampling_clip_max=job["clip_max"],
            vllm_importance_sampling_clip_min=job["clip_min"],
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode=job["mode"],
        )
        stand_in.model.is_gradient_checkpointing = False
        output = GRPOTrainer._generate_and_score_completions(
            stand_in, [{"prompt": ""} for _ in range(num_responses)]
        )
        return {
            "advantages": output["advantages"].tolist(),
            "factors": output["importance_sampling_ratio"].tolist(),
        }

    def config(job: dict[str, Any]) -> Any:
        """Make the trainer's configuration, and tell what it holds of what it was made with."""
        made = GRPOConfig("unused", **job["settings"])
        kept = {key: getattr(made, key) for key in job["settings"]}
        for key in ("save_strategy", "logging_strategy", "optim"):
            kept[key] = str(kept[key].value)
        kept["steps_per_generation"] = made.steps_per_generation
        kept["generation_batch_size"] = made.generation_batch_size
        return kept

    answers = {"loss": loss, "advantages": advantages, "config": config}
    return lambda job: answers[job["kind"]](job)


if __name__ == "__main__":
    serve(load)
