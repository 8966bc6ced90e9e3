"""What a reward is and what it returns."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

Columns = Mapping[str, Any]
"""The further columns of a task's row, by name: plain values, as in JSON."""
NO_COLUMNS: Columns = MappingProxyType({})


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
    wrong: a response without an answer in it is to get a number too. `score` may be asynchronous:
    while it waits, the process scores others (`rollout.reward_concurrency`).

    It may have a method `check(answer)` as well, which raises a ValueError for an answer of the
    task that no response could ever be compared with, before anything is generated; a method
    `example(answer)`, which returns a response that is right, or "", for previews; a method
    `load()`, called once in each process for what takes longer than a response may, such as reading
    a model; and `score` may have a parameter `columns` more, for the further columns of the task's
    row, see `Columns`.
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


def example_of(reward: object) -> Callable[[str], str] | None:
    """Return what writes a right response to an answer; None if a reward has nothing that does."""
    example: Callable[[str], str] | None = getattr(reward, "example", None)
    return example


def load(reward: object) -> None:
    """Let a reward load what it needs, if it has anything to load."""
    own = getattr(reward, "load", None)
    if own is not None:
        own()


def score_with(
    reward: Any, prompt_text: str, response_text: str, answer: str, columns: Columns = NO_COLUMNS
) -> Any:
    """Let a reward score a response, with the row's further columns if it takes them.

    Returns:
        What it returned; see `rollout.rewards.awaited` for what asynchronous ones return.
    """
    kind: type = type(reward)
    further = {"columns": columns} if takes_columns(kind) else {}
    return reward.score(prompt_text, response_text, answer, **further)


@cache
def takes_columns(kind: type) -> bool:
    """Say whether the rewards of a class take the further columns of a row."""
    score = getattr(kind, "score", None)
    try:
        return score is not None and "columns" in inspect.signature(score).parameters
    except (TypeError, ValueError):
        return False
