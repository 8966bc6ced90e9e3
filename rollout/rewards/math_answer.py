"""Mathematical equality of a response's answer and the task's.

    response -> math_response: the answer in it -> math_text: in one way of writing
             -> math_kinds: percents, units, sets, equations, ... -> math_words, math_listings
                                                                  -> math_units, math_numbers
                                                                  -> math_values: formulas

math-verify reads formulas and decides nothing else. Its guard against endless computations needs
SIGALRM, a process's main thread and whole seconds; here sizes are bounded before a formula is read
and before it is computed, and the pool's kill is the second line.
"""

from dataclasses import dataclass

from rollout.rewards import math_kinds, math_values
from rollout.rewards.accepted import accepted
from rollout.rewards.math_response import answer_text
from rollout.rewards.math_text import MAX_CHARS, clean
from rollout.rewards.types import Score


@dataclass(frozen=True, slots=True)
class MathReward:
    """Gives 1.0 when the response's answer equals the task's, else 0.0.

    They are compared as numbers, sets, expressions or words (`rollout.rewards.math_kinds` has the
    rules); of several accepted answers (`rollout.rewards.accepted`) one is enough. Of a response
    the last boxed expression counts if there is one, else what follows "answer is" or ####, else
    the last formula or number.
    """

    precision: int = 6
    """Decimals to which numbers are compared, or significant digits below 0.1; at least 1."""

    def __post_init__(self) -> None:
        """Refuse a precision that would make every number equal."""
        if self.precision < 1:
            raise ValueError(f"reward.precision must be at least 1, got {self.precision!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`.

        An answer too large to be compared is wrong.
        """
        math_values.load()
        found = _cleaned(answer_text(response_text) or "")
        golds = map(_gold, accepted(answer)) if found else ()
        correct = float(any(math_kinds.same(gold, found, self.precision) for gold in golds))
        return Score(
            reward=correct,
            components={"correct": correct, "format": float(bool(found))},
            extracted=found[:MAX_CHARS],
        )

    def load(self) -> None:
        """Import what reads formulas."""
        math_values.load()

    def check(self, answer: str) -> None:
        """Accept a number, formula, set, equation, choice or words, of bounded size."""
        for one in accepted(answer):
            if reason := math_kinds.refusal(_gold(one)):
                raise ValueError(f"{reason}, got {one[:80]!r}")


def _gold(answer: str) -> str:
    marked = any(mark in answer for mark in ("\\boxed", "\\fbox", "####"))
    return _cleaned((answer_text(answer) if marked else answer) or "")


def _cleaned(text: str) -> str:
    # Far beyond the bound nothing is gained by cleaning before it is refused.
    return clean(text) if len(text) <= 4 * MAX_CHARS else text[: 4 * MAX_CHARS]
