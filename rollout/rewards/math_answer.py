"""Mathematical equality, judged by math-verify.

math-verify guards itself with SIGALRM, which works in a process's main thread only and counts whole
seconds. Its timeouts are off here, and the pool's kill takes their place: this reward must not run
outside a pool on responses that nobody has looked at.
"""

import logging
from dataclasses import dataclass
from typing import Any

from rollout.rewards.types import Score


@dataclass(frozen=True, slots=True)
class MathReward:
    """Gives 1.0 when the response's answer equals the task's, else 0.0.

    They are compared as numbers, sets or expressions. Of a response the last boxed expression
    counts if there is one, else the last formula or number.
    """

    precision: int = 6
    """Decimals to which numbers are compared, at least 1."""

    def __post_init__(self) -> None:
        """Refuse a precision that would make every number equal."""
        if self.precision < 1:
            raise ValueError(f"reward.precision must be at least 1, got {self.precision!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`."""
        found = _parse(response_text)
        correct = float(bool(found) and self._equal(_gold(answer), found))
        return Score(
            reward=correct,
            components={"correct": correct, "format": float(bool(found))},
            extracted=str(found[-1]) if found else "",
        )

    def check(self, answer: str) -> None:
        """Accept what math-verify can read."""
        if not any(not isinstance(value, str) for value in _gold(answer)):
            raise ValueError(f"math-verify finds no expression in the answer, got {answer!r}")

    def _equal(self, gold: list[Any], found: list[Any]) -> bool:
        from math_verify import verify

        return bool(verify(gold, found, float_rounding=self.precision, timeout_seconds=None))


def _gold(answer: str) -> list[Any]:
    return _parse(answer if "$" in answer or "\\boxed" in answer else f"${answer}$")


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    # It warns on every call without a timeout; the pool has one.
    for module in ("parser", "grader"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
    return list(parse(text, parsing_timeout=None))
