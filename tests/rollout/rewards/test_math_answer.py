import json

import pytest

from rollout.rewards.math_answer import MathReward
from tests.places import PROJECT


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", 1.0),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
        (r"\boxed{1,234}", "1234", 1.0),
        ("3+4=7 and 7+5=12.", "12", 1.0),
        ("#### 12", "12", 1.0),
        (r"first 12, but \boxed{13}", "12", 0.0),
        (r"\boxed{0.333}", r"\frac{1}{3}", 0.0),
        (r"\boxed{-5}", "5", 0.0),
        ("no idea", "5", 0.0),
        ("", "5", 0.0),
    ],
)
def test_equal_expressions_are_right(response, answer, reward):
    assert MathReward().score("", response, answer).reward == reward


def test_the_extracted_answer_is_shown():
    score = MathReward().score("", r"so \boxed{42}", "42")
    assert score.extracted == "42"
    assert score.components == {"correct": 1.0, "format": 1.0}
    assert MathReward().score("", "no idea", "42").components == {"correct": 0.0, "format": 0.0}


@pytest.mark.parametrize("answer", ["5", r"\frac{1}{3}", "$x=2$", r"\boxed{7}", "(1,2)", "1,234"])
def test_readable_answers_are_accepted(answer):
    MathReward().check(answer)


@pytest.mark.parametrize("answer", ["", "???", "}{"])
def test_unreadable_answers_are_refused(answer):
    with pytest.raises(ValueError, match=r"math-verify finds no expression in the answer, got"):
        MathReward().check(answer)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("1=2=3=4", "the answer states an equality that does not hold, got '1=2=3=4'"),
        ("x=1=2", "the answer states an equality that does not hold, got 'x=1=2'"),
        (", ".join("1" * 25), "the answer has more than 24 items; shorten it, got '1, 1"),
        ("1" * 501, "the answer has more than 500 characters; shorten it, got '1111"),
        ("9^9^9^9^9^9", "the answer towers powers; shorten it, got '9\\^9"),
        ("(1, ?)", "math-verify finds no expression in the answer, got '\\(1, \\?\\)'"),
    ],
)
def test_answers_that_nothing_equals_are_refused(answer, sentence):
    with pytest.raises(ValueError, match=sentence):
        MathReward().check(answer)
    assert MathReward().score("", rf"\boxed{{{answer}}}", answer).reward == 0.0


@pytest.mark.parametrize(
    "answer", ["Monday", "true", "B", "(B)", r"\$18.90", r"50\%", r"\infty", "1 < x", "x + y = 1"]
)
def test_answers_of_other_kinds_are_accepted(answer):
    MathReward().check(answer)


def test_the_answers_of_the_example_file_are_right_in_a_box():
    for line in (PROJECT / "conf/examples/math.jsonl").read_text().splitlines():
        answer = json.loads(line)["answer"]
        MathReward().check(answer)
        assert MathReward().score("", rf"so \boxed{{{answer}}}.", answer).reward == 1.0
        assert MathReward().score("", r"so \boxed{1234567}.", answer).reward == 0.0


def test_the_precision_decides_which_roundings_are_right():
    for precision, reward in ((2, 1.0), (3, 1.0), (4, 0.0)):
        score = MathReward(precision=precision).score("", r"\boxed{0.333}", r"\frac{1}{3}")
        assert score.reward == reward


def test_a_precision_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"reward.precision must be at least 1, got 0"):
        MathReward(precision=0)
