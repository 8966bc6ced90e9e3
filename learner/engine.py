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
    """How an optimiser step ended; the same on every rank."""

    applied: bool
    """False when the gradient was not finite and nothing changed."""
    grad_norm: float
    """Norm of the step's gradient over all ranks before clipping; not finite when not applied."""
    lr: float
    """Learning rate of the step."""
    retry: bool = False
    """True when only the scale of the loss was too large, in float16; it is smaller now, and the
    same step can be tried again."""


class Engine(Protocol):
    """What the update needs from a training engine."""

    @property
    def num_ranks(self) -> int:
        """Ranks whose gradients are averaged."""
        ...

    @property
    def device(self) -> torch.device:
        """Where rows must be."""
        ...

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities [T] with gradient and entropies [T] of a row's loss tokens.

        Entropies have a gradient if asked for.
        """
        ...

    def reference_logprobs(self, row: MicroBatch) -> Tensor:
        """Log-probabilities [T] of a row's loss tokens under the reference, without gradient."""
        ...

    def agree(self, value: bool) -> bool:
        """True if the value is true on every rank; every rank must ask."""
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
