"""What a step of the update asks of a training engine, and what it gets back.

Implemented by `learner.deepspeed_engine`, one object on every rank.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from learner.batch import MicroBatch


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Says how an optimiser step ended; the same on every rank."""

    applied: bool
    """It is False when the gradient was not finite and nothing changed."""
    grad_norm: float
    """Norm of the step's gradient over all ranks before clipping; not finite when not applied."""
    lr: float
    """The step's learning rate."""
    retry: bool = False
    """True when only the scale of the loss was too large, in float16; it is smaller now, and the
    same step can be tried again."""


class Engine(Protocol):
    """Does what the update needs from a training engine."""

    @property
    def num_ranks(self) -> int:
        """Return how many ranks' gradients are averaged."""
        ...

    @property
    def device(self) -> torch.device:
        """Return the device that rows must be on."""
        ...

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Return a row's log-probabilities [T] with gradient and entropies [T] at its loss tokens.

        Entropies have a gradient if asked for.
        """
        ...

    def reference_logprobs(self, row: MicroBatch) -> Tensor:
        """Return log-probabilities [T] of the loss tokens under the reference, without gradient."""
        ...

    def agree(self, value: bool) -> bool:
        """Return whether the value is true on every rank; every rank must ask."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Join the [n] values of all ranks in rank order, n may differ; every rank must ask."""
        ...

    def backward(self, loss: Tensor, *, boundary: bool) -> None:
        """Add a loss's gradient; `boundary` marks the last one before `step`."""
        ...

    def step(self) -> StepOutcome:
        """Clip and apply the gradient, or discard it if it is not finite; either way clear it."""
        ...
