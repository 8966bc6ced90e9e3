"""The output head of a policy that DeepSpeed trains, as CAPO's mask looks at it."""

from typing import Any

import torch
from torch import Tensor

from learner.batch import MicroBatch
from learner.deepspeed_engine import DeepSpeedEngine
from learner.objectives.curvature import adam_change
from learner.optimizers import AdamW
from learner.output_head import head_inputs


class DeepSpeedHead:
    """A `learner.token_masks.OutputHead` of a DeepSpeedEngine.

    Args:
        engine: Its model must pass `learner.output_head.check_head`.
        adam: The engine's optimiser.
    """

    def __init__(self, engine: DeepSpeedEngine, adam: AdamW) -> None:
        self._engine = engine
        self._adam = adam

    @property
    def temperature(self) -> float:
        """Return the sampling temperature of the rollouts, which divides the logits."""
        return self._engine.numerics.temperature

    @property
    def _parameter(self) -> torch.nn.Parameter:
        """Return the head's weight; where embeddings are tied, it is that of both."""
        head: Any = self._engine.model.get_output_embeddings()
        weight: torch.nn.Parameter = head.weight
        return weight

    @torch.no_grad()
    def hidden_states(self, row: MicroBatch) -> Tensor:
        """Return hidden states [K, D] that predict a row's loss tokens, as the head takes them.

        Every rank must ask, as for log-probabilities.
        """
        with head_inputs(self._engine.model) as seen:
            self._engine.logprobs(row)
        return torch.cat(seen, dim=1)[0]

    @torch.no_grad()
    def weight(self) -> Tensor:
        """Copy the head's whole weight: [V, D] float32. Every rank must ask.

        The one that the policy computes with: in 16 bits, not its float32 master copy.
        """
        parameter = self._parameter
        with self._engine.whole([parameter]):
            return parameter.detach().to(torch.float32, copy=True)

    @torch.no_grad()
    def change(self, gradient: Tensor) -> Tensor:
        """Return how the next optimiser step would change the head's weight: [V, D] float32.

        By Adam from its present moments and the step's learning rate, without weight decay. The
        gradient's clipping is left out: the norm of all gradients is known after the backward pass
        only. Where embeddings are tied the moments are those of both uses of the matrix, while the
        gradient is that of one.

        Args:
            gradient: [V, D] float32, this rank's part of the loss's gradient in the head; it is
                overwritten with the sum over ranks. Every rank must ask.
        """
        # Losses are multiplied by the number of ranks that DeepSpeed divides gradients by.
        torch.distributed.all_reduce(gradient)
        return adam_change(
            gradient,
            self._moment("exp_avg", gradient),
            self._moment("exp_avg_sq", gradient),
            step=self._engine.num_applied_steps + 1,
            lr=self._engine.next_lr,
            betas=(self._adam.betas[0], self._adam.betas[1]),
            eps=self._adam.eps,
        )

    def _moment(self, key: str, like: Tensor) -> Tensor:
        """Return Adam's `exp_avg` or `exp_avg_sq` of the head, whole; every rank must ask."""
        if not self._engine.num_applied_steps:
            return torch.zeros_like(like)
        return self._engine.optimizer_state(self._parameter, key).to(like)
