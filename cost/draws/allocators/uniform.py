"""All prompts are equally likely: with `EpochDraws` this is plain GRPO."""

from dataclasses import dataclass
from typing import ClassVar

from cost.draws.allocators.drawn import Drawn


@dataclass(frozen=True, slots=True)
class Uniform(Drawn):
    """Draws every prompt with the same probability, with weights of exactly 1."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = True
