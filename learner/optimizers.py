"""Optimisers: each a plug that holds its settings and builds torch's own.

The learning rate is not among the settings: it is `learner.lr`, after warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


class Optimizer(Protocol):
    """Turns gradients into steps.

    `elementwise` says whether an element's step depends on that element's gradients alone. ZeRO 1
    to 3 show every rank flat slices of the weights, which an optimiser that looks at rows and
    columns would misread.
    """

    @property
    def elementwise(self) -> bool:
        """Whether each element's step depends on its own gradients alone."""
        ...

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> TorchOptimizer:
        """Make the optimiser of these parameters."""
        ...


def _require(condition: bool, message: str, value: object) -> None:
    if not condition:
        raise ValueError(f"optimizer.{message}, got {value!r}")


@dataclass(frozen=True, slots=True)
class AdamW:
    """Builds Adam with decoupled weight decay (1711.05101)."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """The two decay rates, each in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment, positive."""
    weight_decay: float = 0.0
    """Decoupled weight decay, at least 0."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        fits = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(fits, "betas must be two numbers in [0, 1)", self.betas)
        _require(self.eps > 0, "eps must be positive", self.eps)
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)

    @property
    def elementwise(self) -> bool:
        """It steps each element by itself."""
        return True

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> TorchOptimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.AdamW(
            parameters,
            lr=lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            # One pass over the state. Else ZeRO, which joins all weights of a rank in one tensor,
            # would have two more of its size beside it in every step.
            fused=True,
        )


@dataclass(frozen=True, slots=True)
class Sgd:
    """Builds stochastic gradient descent; without momentum it keeps no state."""

    momentum: float = 0.0
    """Share of the running step that the next one keeps, in [0, 1)."""
    weight_decay: float = 0.0
    """Added to the gradient, at least 0."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _require(0 <= self.momentum < 1, "momentum must lie in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)

    @property
    def elementwise(self) -> bool:
        """It steps each element by itself."""
        return True

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> TorchOptimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.SGD(
            parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True, slots=True)
class Adafactor:
    """Builds Adam with a second moment from row and column sums (1804.04235).

    It needs `learner.zero_stage` 0.

    It is torch's, whose steps are relative: the root mean square of a matrix's step is at most

        min(lr, 1 / sqrt(step)) x clip x max(0.001, root mean square of the matrix)

    So weights of 0.02 take a fiftieth of the step that AdamW takes at the same `learner.lr`, and
    the half of an adapter that starts at 0 a thousandth: raise `learner.lr` accordingly.
    """

    beta2_decay: float = -0.8
    """Exponent with which the second moment's decay rate approaches 1, negative."""
    clip: float = 1.0
    """Largest root mean square of a step in these units, positive; torch's `d`."""
    weight_decay: float = 0.0
    """Decoupled weight decay, at least 0."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _require(self.beta2_decay < 0, "beta2_decay must be negative", self.beta2_decay)
        _require(self.clip > 0, "clip must be positive", self.clip)
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)

    @property
    def elementwise(self) -> bool:
        """It does not: it factors matrices."""
        return False

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> TorchOptimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.Adafactor(
            parameters,
            lr=lr,
            beta2_decay=self.beta2_decay,
            d=self.clip,
            weight_decay=self.weight_decay,
        )
