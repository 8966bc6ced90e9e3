"""Ask verl for losses, advantages, divergences and rollout corrections."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from oracle_program import loss_and_gradient, serve, tensor


def load() -> Callable[[dict[str, Any]], Any]:
    """Import verl and return what answers one job."""
    from verl.trainer.ppo import core_algos, rollout_corr_helper
    from verl.workers.config import ActorConfig

    def loss(job: dict[str, Any]) -> Any:
        batch = job["batch"]
        mask = tensor(batch["mask"]).double()
        config = ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, **job["settings"])
        config.global_batch_info.update(job["batch_info"])

        def value(logprobs: torch.Tensor) -> torch.Tensor:
            policy_loss, _ = core_algos.get_policy_loss_fn(job["name"])(
                old_log_prob=tensor(batch["rollout_logprobs"]),
                log_prob=logprobs,
                advantages=tensor(batch["advantages"]).unsqueeze(1) * mask,
                response_mask=mask,
                loss_agg_mode=job["aggregation"],
                config=config,
            )
            return policy_loss

        return loss_and_gradient(value, batch["learner_logprobs"])

    def advantages(job: dict[str, Any]) -> Any:
        rewards = tensor(job["rewards"]).unsqueeze(1)
        settings = job["settings"]
        if job["name"] == "reinforce_plus_plus":
            settings = {"config": SimpleNamespace(gamma=1.0)}
        else:
            settings = {"index": np.array(job["groups"]), **settings}
        estimator = core_algos.get_adv_estimator_fn(job["name"])
        result, _ = estimator(
            token_level_rewards=rewards, response_mask=torch.ones_like(rewards), **settings
        )
        return result.squeeze(1).tolist()

    def divergence(job: dict[str, Any]) -> Any:
        ref = tensor(job["ref_logprobs"])
        estimates = core_algos.kl_penalty(tensor(job["learner_logprobs"]), ref, job["name"])
        summed = loss_and_gradient(
            lambda logprobs: core_algos.kl_penalty(logprobs, ref, job["name"]).sum(),
            job["learner_logprobs"],
        )
        return {"estimates": estimates.tolist(), "gradient": summed["gradient"]}

    def correction(job: dict[str, Any]) -> Any:
        ratios = tensor(job["trainer_logprobs"]) - tensor(job["rollout_logprobs"])
        weights, _ = rollout_corr_helper.compute_rollout_correction_weights(
            ratios, torch.ones_like(ratios), "token", job["threshold"]
        )
        return weights.tolist()

    answers = {
        "loss": loss,
        "advantages": advantages,
        "divergence": divergence,
        "correction": correction,
    }
    return lambda job: answers[job["kind"]](job)


if __name__ == "__main__":
    serve(load)
