"""Ask Liger for the losses that its fused GRPO loss computes from log-probabilities."""

from collections.abc import Callable
from typing import Any

import torch
from oracle_program import loss_and_gradient, serve, tensor


def load() -> Callable[[dict[str, Any]], Any]:
    """Import Liger and return what answers one job."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    def loss(job: dict[str, Any]) -> Any:
        batch = job["batch"]
        mask = tensor(batch["mask"]).double()

        def value(logprobs: torch.Tensor) -> torch.Tensor:
            total, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
                logprobs,
                mask,
                tensor(batch["advantages"]),
                mask,
                ref_per_token_logps=tensor(batch["ref_logprobs"]),
                old_per_token_logps=tensor(batch["rollout_logprobs"]),
                **job["settings"],
            )
            return total

        return loss_and_gradient(value, batch["learner_logprobs"])

    return loss


if __name__ == "__main__":
    serve(load)
