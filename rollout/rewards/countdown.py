"""Countdown: an equation that makes a number out of others, each used once.

The answer is `{"target": 98, "nums": [44, 19, 35]}`, or with `numbers` for `nums`. The scores are
TinyZero's: 1 for the target, `format_reward` for any other equation of just these numbers, else 0.
"""

import ast
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rollout.rewards.types import Score

_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_ALLOWED = re.compile(r"[\d\s+\-*/()]{1,200}")
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class CountdownReward:
    """Scores the equation between the last <answer> and </answer>."""

    format_reward: float = 0.1
    """What an equation of the numbers that misses the target is worth, in [0, 1)."""

    def __post_init__(self) -> None:
        """Refuse a format that is worth as much as the answer."""
        if not 0 <= self.format_reward < 1:
            raise ValueError(f"reward.format_reward must lie in [0, 1), got {self.format_reward!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`."""
        found = _TAG.findall(response_text)
        equation = found[-1].strip().partition("=")[0].strip() if found else ""
        reward = correct = 0.0
        if equation and answer:
            target, numbers = _asked(answer)
            value = _value(equation, numbers)
            correct = float(value == target)
            reward = correct or (0.0 if value is None else self.format_reward)
        components = {"correct": correct, "format": float(bool(equation))}
        return Score(reward=reward, components=components, extracted=equation[:200])

    def check(self, answer: str) -> None:
        """Accept a target and numbers."""
        _asked(answer)


def _asked(answer: str) -> tuple[Fraction, list[int]]:
    try:
        asked: Any = json.loads(answer)
        numbers = asked["nums"] if "nums" in asked else asked["numbers"]
        # Columns of CSV are texts.
        numbers = json.loads(numbers) if isinstance(numbers, str) else numbers
        return Fraction(asked["target"]), [int(number) for number in numbers]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            'must be {"target": 98, "nums": [44, 19, 35]}: set task.answer to the columns, '
            f"such as target,nums, got {answer[:80]!r}"
        ) from error


def _value(equation: str, numbers: list[int]) -> Fraction | None:
    """An equation's value; None if it is not one of just these numbers, each used once."""
    if not _ALLOWED.fullmatch(equation):
        return None
    used = sorted(map(int, re.findall(r"\d+", equation)))
    if used != sorted(numbers):
        return None
    try:
        return _computed(ast.parse(equation, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _computed(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_computed(node.left), _computed(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_computed(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    raise ValueError(f"only + - * / and whole numbers, got {ast.dump(node)[:80]}")
