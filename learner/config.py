"""The learner's settings, as hydra composes them under the key `learner`."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """How the policy is trained: processes, optimiser, packing, deadlines.

    Raises:
        ValueError: If a number is outside its range, or two settings contradict each other.
    """

    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3: what the ranks share out (nothing, optimiser state,
    gradients, weights)."""
    lr: float = 1e-6
    """Learning rate after warm-up, positive."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's two decay rates, each in [0, 1)."""
    adam_eps: float = 1e-8
    """AdamW's epsilon, positive."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, at least 0."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly; 0 for none."""
    max_grad_norm: float = 1.0
    """The gradient's norm is clipped to this, positive."""
    row_tokens: int = 2048
    """Largest number of tokens in one packed row; activations take memory in proportion."""
    num_minibatches: int = 1
    """Optimiser steps in one pass over a batch; each takes a random part of the groups."""
    num_epochs: int = 1
    """Passes over a batch; the responses are thinned anew for each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    num_threads: int = 1
    """Torch threads of each worker."""
    start_deadline_seconds: float = 600.0
    """Longest wait for the workers to load the policy and find each other."""
    update_deadline_seconds: float = 3600.0
    """Longest wait for one pass over a batch."""
    max_skipped_steps: int = 3
    """The run ends when this many optimiser steps in a row were skipped for a non-finite loss or
    gradient, at least 1."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for key in ("row_tokens", "num_minibatches", "num_epochs", "num_threads",
                    "max_skipped_steps"):  # fmt: skip
            if getattr(self, key) < 1:
                raise ValueError(f"learner.{key} must be at least 1, got {getattr(self, key)!r}")
        for key in ("lr", "adam_eps", "max_grad_norm", "start_deadline_seconds",
                    "update_deadline_seconds"):  # fmt: skip
            if not getattr(self, key) > 0:
                raise ValueError(f"learner.{key} must be positive, got {getattr(self, key)!r}")
        for key in ("weight_decay", "warmup_steps"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"learner.{key} must not be negative, got {getattr(self, key)!r}")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"learner.zero_stage must be 0, 1, 2 or 3, got {self.zero_stage!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"learner.betas must be two numbers in [0, 1), got {self.betas!r}")
