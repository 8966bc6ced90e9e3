"""Every kind of answer, ours against math-verify alone.

`python -m pytest -s tests/rollout/rewards/test_math_pairs.py` prints both counts per kind.
"""

import importlib
import logging
import sys
from pathlib import Path

import pytest
from math_verify import parse, verify

from rollout.rewards.math_answer import MathReward

sys.path.insert(0, str(Path(__file__).parent))
try:
    PAIRS = importlib.import_module("math_pairs").PAIRS
finally:
    sys.path.pop(0)

ROWS = [(kind, *row) for kind, rows in PAIRS.items() for row in rows]

WRONG_ALONE = {
    **{"percent": 11, "currency": 9, "degrees": 6, "units": 22, "thousands separators": 2},
    **{"mixed numbers": 2, "fractions": 1, "scientific notation": 3, "intervals": 18},
    **{"sets and tuples": 9, "text answers": 15, "choices": 23, "plus-minus": 1},
    **{"several boxes": 3, "nested boxes": 2, "answers in JSON": 5, "full-width and Unicode": 9},
    **{"chains": 9, "equations with a left side": 9, "near zero": 6, "repeating decimals": 9},
    **{"infinity": 1, "spelling": 11, "expressions": 2, "bases": 2, "matrices": 1, "moduli": 3},
    **{"domains": 5, "no box": 3, "thoughts": 4, "ratios": 2, "times of day": 2},
    **{"approximations": 5, "alternatives": 9},
}
"""Wrong verdicts of math-verify 0.9.0 alone, by kind; kinds without any are left out."""


def alone(response: str, answer: str) -> bool:
    """The verdict of math-verify, used as its own documentation does."""
    for module in ("parser", "grader"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
    marked = "$" in answer or "\\boxed" in answer
    gold = parse(answer if marked else f"${answer}$", parsing_timeout=None)
    return verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None)


def test_there_are_pairs_of_both_verdicts_for_every_kind():
    assert len(set(ROWS)) == len(ROWS) >= 150
    for kind, rows in PAIRS.items():
        assert {right for _, _, right in rows} == {True, False}, kind


@pytest.mark.parametrize("kind", PAIRS)
def test_the_verdict_is_a_mathematicians(kind):
    wrong = []
    for response, answer, right in PAIRS[kind]:
        MathReward().check(answer)
        if MathReward().score("", response, answer).reward != float(right):
            wrong.append((response, answer))
    assert wrong == []


@pytest.mark.parametrize("kind", PAIRS)
def test_every_answer_is_equal_to_itself_in_a_box_and_after_a_word(kind):
    answers = sorted({answer for _, answer, _ in PAIRS[kind] if "\\boxed" not in answer})
    forms = [rf"so \boxed{{{answer.strip('$')}}}" for answer in answers]
    forms += [f"#### {answer}" for answer in answers]
    wrong = [
        (form, answer)
        for form, answer in zip(forms, answers * 2, strict=True)
        if MathReward().score("", form, answer).reward != 1.0
    ]
    assert wrong == []


def test_math_verify_alone_is_wrong_as_often_as_we_say():
    wrong = {}
    for kind, rows in PAIRS.items():
        count = sum(alone(response, answer) != right for response, answer, right in rows)
        print(f"{kind:28} {len(rows):3} pairs, math-verify alone wrong on {count}, ours on 0")
        wrong[kind] = count
    print(f"together {len(ROWS)} pairs, math-verify alone wrong on {sum(wrong.values())}")
    assert {kind: count for kind, count in wrong.items() if count} == WRONG_ALONE
