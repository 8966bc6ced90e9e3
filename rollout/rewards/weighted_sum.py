"""Several rewards as one: the sum of what each gives, times its weight.

    reward=sum +reward@reward.parts.right=math +reward@reward.parts.form=my_rewards.py:tagged
    +reward.weights.form=0.1

Each part's own reward is a component of its name, unweighted, and its components stand below it:
`form` and `form/tags`. Parts that are asynchronous wait side by side. One that fails fails the sum.
"""

import inspect
import math
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rollout.rewards.awaited import after
from rollout.rewards.returned import as_score
from rollout.rewards.types import (
    NO_COLUMNS,
    Columns,
    Score,
    check_of,
    example_of,
    load,
    score_with,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSum:
    """Scores a response with several rewards.

    Raises:
        ValueError: If there is no part, one is no reward, or a weight is of none or not finite.
    """

    parts: dict[str, Any]
    """Rewards by name."""
    weights: dict[str, float] = field(default_factory=dict)
    """What each is multiplied by, finite, by name; 1 for those not named."""

    def __post_init__(self) -> None:
        """Refuse what could not be added up."""
        if not self.parts:
            raise ValueError(
                "reward.parts must name at least one reward: +reward@reward.parts.NAME=math"
            )
        for name, part in self.parts.items():
            if not hasattr(part, "score"):
                raise ValueError(f"reward.parts.{name} must be a reward, got {part!r:.80}")
        for name, weight in self.weights.items():
            if name not in self.parts:
                raise ValueError(
                    f"reward.weights must name parts, one of {', '.join(self.parts)}, got {name!r}"
                )
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ValueError(f"reward.weights.{name} must be a number, got {weight!r}")

    def score(
        self, prompt_text: str, response_text: str, answer: str, columns: Columns = NO_COLUMNS
    ) -> Score | Awaitable[Score]:
        """Score a response with every part; see `rollout.rewards.types.Reward`."""
        found: dict[str, Any] = {}
        for name, part in self.parts.items():
            returned = score_with(part, prompt_text, response_text, answer, columns)
            found[name] = after(returned, partial(as_score, scorer=part.score))
        if any(inspect.isawaitable(each) for each in found.values()):
            return self._awaited(found)
        return self._added_up(found)

    async def _awaited(self, found: Mapping[str, Any]) -> Score:
        # Most rewards need none, and each of their processes would take longer to start.
        import asyncio

        waits = {
            name: asyncio.ensure_future(each)
            for name, each in found.items()
            if inspect.isawaitable(each)
        }
        try:
            scores = await asyncio.gather(*waits.values())
        finally:
            for wait in waits.values():
                wait.cancel()
        return self._added_up({**found, **dict(zip(waits, scores, strict=True))})

    def _added_up(self, found: Mapping[str, Score]) -> Score:
        components: dict[str, float] = {}
        for name, score in found.items():
            components[name] = score.reward
            components |= {f"{name}/{own}": x for own, x in score.components.items()}
        return Score(
            sum(self.weights.get(name, 1.0) * score.reward for name, score in found.items()),
            components,
            next((score.extracted for score in found.values() if score.extracted), ""),
        )

    def load(self) -> None:
        """Let every part load what it needs."""
        for part in self.parts.values():
            load(part)

    def check(self, answer: str) -> None:
        """Accept what all parts accept.

        Raises:
            ValueError: By the first that does not.
        """
        for part in self.parts.values():
            check = check_of(part)
            if check is not None:
                check(answer)

    def example(self, answer: str) -> str:
        """Return the first part's response that is right; "" if none knows of any."""
        for part in self.parts.values():
            example = example_of(part)
            if example is not None and (right := example(answer)):
                return right
        return ""


def with_parts(key: str, reward: object) -> Iterator[tuple[str, object]]:
    """Yield a reward and all that it adds up, each with its key."""
    yield key, reward
    if isinstance(reward, WeightedSum):
        for name, part in reward.parts.items():
            yield from with_parts(f"{key}.parts.{name}", part)
