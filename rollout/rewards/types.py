"""What a reward is and what it returns."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Score:
    """A reward's verdict on one response.

    Example: Score(reward=1.0, components={"correct": 1.0}, extracted="5").
    """

    reward: float
    """What the policy is trained on, finite."""
    components: dict[str, float] = field(default_factory=dict)
    """Named parts for metrics, finite; the same names for every response."""
    extracted: str = ""
    """The answer found in the response, "" if none."""

    def __post_init__(self) -> None:
        """Refuse numbers that would poison the statistics of a whole group."""
        for name, value in {"reward": self.reward, **self.components}.items():
            if not math.isfinite(value):
                raise ValueError(f"a score's {name} must be finite, got {value!r}")


@runtime_checkable
class Reward(Protocol):
    """The plug `reward`: scores one response; pure and picklable.

    It runs in the main thread of a process of its own (`rollout.rewards.pool`), which is killed
    when it takes too long. An exception marks the response as crashed, which is not the same as
    wrong: a response without an answer in it is to get a number too. Each process scores an empty
    response first, to load what the reward imports.

    It may have a method `check(answer)` as well, which raises a ValueError for an answer of the
    task that no response could ever be compared with, before anything is generated.
    """

    def score(self, prompt_text: str, response_text: str, answer: str) -> object:
        """Score a response.

        Args:
            prompt_text: The user's message.
            response_text: The decoded response without special tokens.
            answer: The task's answer.

        Returns:
            A Score, or what `rollout.rewards.returned.as_score` turns into one.
        """
        ...


def check_of(reward: object) -> Callable[[str], None] | None:
    """Return a reward's check of an answer; None if it has none and accepts every answer."""
    check: Callable[[str], None] | None = getattr(reward, "check", None)
    return check
