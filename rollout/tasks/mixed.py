"""Several tasks as one, each with its share of the prompts.

    task=mixed +task@task.sets.sums=gsm8k +task@task.sets.mine=dataset
    task.sets.mine.path=mine.jsonl +task.weights.mine=3

Every prompt is drawn as the scheduler draws prompts, so that a set weighs as much as its number of
prompts: weights decide how many of each set there are. None is repeated; of sets that have more
than their share some are left out, by chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.tasks.dataset import numbered, some_of
from rollout.tasks.left_out import LeftOut
from rollout.tasks.prompts import Check
from rollout.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedTask:
    """The prompts of several tasks."""

    sets: dict[str, Any]
    """Tasks by name."""
    weights: dict[str, float] = field(default_factory=dict)
    """Shares by name of the set, positive, in any unit; those not named have 1. Empty keeps all
    prompts of all sets."""
    seed: int = 0
    """Which prompts of a set are left out."""

    def __post_init__(self) -> None:
        """Refuse weights of sets that there are not."""
        if not self.sets:
            raise ValueError("task.sets must name at least one task: +task@task.sets.NAME=gsm8k")
        for name, task in self.sets.items():
            if not hasattr(task, "prompts"):
                raise ValueError(f"task.sets.{name} must be a task, got {task!r:.80}")
        for name, weight in self.weights.items():
            if name not in self.sets:
                raise ValueError(
                    f"task.weights must name sets, one of {', '.join(self.sets)}, got {name!r}"
                )
            if not isinstance(weight, int | float) or not 0 < weight <= 1e9:
                raise ValueError(f"task.weights.{name} must be positive, got {weight!r}")

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Make the prompts of all sets; see `rollout.tasks.prompts.Task`."""
        left_out = LeftOut()
        found: dict[str, list[Prompt]] = {}
        known: set[bytes] = set()
        for name, task in self.sets.items():
            try:
                made = task.prompts(tokenizer, max_tokens=max_tokens, check=check)
            except ValueError as error:
                raise ValueError(str(error).replace("task.", f"task.sets.{name}.")) from error
            new = [prompt for prompt in made if prompt.token_ids.tobytes() not in known]
            known |= {prompt.token_ids.tobytes() for prompt in new}
            left_out.add_several(f"of {name} in a set before it", len(made) - len(new))
            found[name] = new
        for name, number in shares(self._sizes(found), self.weights).items():
            left_out.add_several(f"of {name} beyond its weight", len(found[name]) - number)
            found[name] = some_of(found[name], number, self.seed)
        mixed = numbered([prompt for prompts in found.values() for prompt in prompts])
        each = ", ".join(f"{len(prompts):,} of {name}" for name, prompts in found.items())
        left_out.tell(f"task.sets ({each})", len(mixed))
        return mixed

    def _sizes(self, found: Mapping[str, list[Prompt]]) -> dict[str, int]:
        for name, prompts in found.items():
            if not prompts:
                raise ValueError(f"task.sets.{name} has no prompt that no set before it has, got 0")
        return {name: len(prompts) for name, prompts in found.items()}


def shares(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many prompts of each set give the weights, as many as there can be.

    Args:
        sizes: Prompts there are, by set.
        weights: Shares in any unit; sets not named have 1, and no weights at all keep everything.

    Returns:
        At least 1 of each.
    """
    if not weights:
        return dict(sizes)
    wanted = {name: weights.get(name, 1.0) for name in sizes}
    scale = min(size / wanted[name] for name, size in sizes.items())
    return {name: max(1, round(scale * wanted[name])) for name in sizes}
