"""The typed shape of the configurations of programs that make a policy to start from."""

from dataclasses import dataclass, field
from typing import Any

from conf.checks import require, require_path
from cost.ranges import SEED, amount, count, positive, require_ranges
from rollout.tasks.calculator import CalculatorTeacher
from rollout.tasks.chain import Teacher

SUBJECTS = ("chain", "calculator")
ARCHITECTURES = ("llama", "qwen3", "gpt_neox")


@dataclass(kw_only=True, slots=True)
class SmolLM2Config:
    """Where the converted SmolLM2 goes; see `launch.smollm2`."""

    out: str = "models/smollm2"
    """Folder that receives the model; must not exist yet."""

    def __post_init__(self) -> None:
        require_path("out", self.out)


@dataclass(kw_only=True, slots=True)
class WarmStartConfig:
    """How a policy is taught from examples; see `launch.warmstart`."""

    base: str | None = None
    """Model folder to teach conversations, in the model's own tokens; None trains a new model on a
    `subject`, as the shipped ones were."""
    task: Any = None
    """With a base: the questions. Use other questions than in training."""
    environment: Any = None
    """With a base: the environment, as in training."""
    script: str | None = None
    """With a base: a function (question, answer) -> list of the policy's turns, as FILE.py:NAME or
    MODULE:NAME."""
    out: str = "models/${subject}"
    """Folder that receives the checkpoint; must not exist yet."""
    subject: str = "chain"
    """What a new model is taught: `chain`, or `calculator`, which may call a tool for products."""
    architecture: str = "llama"
    """Architecture of a new model: `llama`, as shipped, or `qwen3` or `gpt_neox` of that size."""
    seed: int = 0
    """Initial weights and examples."""
    steps: int = 1400
    """Optimiser steps."""
    schedule_steps: int = 2250
    """Steps that curriculum and cosine schedule are made for; `steps` may stop earlier."""
    batch_tokens: int = 2500
    """Largest number of tokens in a batch, padding included."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    threads: int = 1
    """Torch threads; another number rounds differently."""
    log_every: int = 50
    """Steps between two printed lines."""
    teacher: Teacher = field(default_factory=Teacher)
    """How the solutions of the chain task are written."""
    calculator: CalculatorTeacher = field(default_factory=CalculatorTeacher)
    """How the conversations of the calculator task are written."""

    def __post_init__(self) -> None:
        require_path("out", self.out)
        self._require_all_or_none()
        require(
            self.subject in SUBJECTS, f"subject must be one of {', '.join(SUBJECTS)}", self.subject
        )
        require(
            self.architecture in ARCHITECTURES,
            f"architecture must be one of {', '.join(ARCHITECTURES)}",
            self.architecture,
        )
        require(
            self.batch_tokens >= 512,
            "batch_tokens must be at least 512, the longest example with its padding",
            self.batch_tokens,
        )
        ranges = {
            "seed": SEED,
            "steps": count(),
            "schedule_steps": count(),
            "batch_tokens": count(),
            "lr": positive(100),
            "warmup_steps": amount(),
            "weight_decay": amount(100),
            "max_grad_norm": positive(),
            "threads": count(10_000),
            "log_every": count(),
        }
        require_ranges("", self, ranges)

    def _require_all_or_none(self) -> None:
        for name in ("task", "environment", "script"):
            given = getattr(self, name)
            require(
                (given is None) == (self.base is None),
                f"{name} must be given with base, and only with it",
                given,
            )
        if self.base is not None:
            require_path("base", self.base)
