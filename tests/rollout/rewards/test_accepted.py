import pytest

from rollout.rewards.accepted import accepted, joined
from rollout.rewards.math_answer import MathReward


@pytest.mark.parametrize("answers", [["4"], ["1/2", "0.5"], ["[1, 2]"], ['a "b"', "ä"]])
def test_joined_answers_come_apart_again(answers):
    assert list(accepted(joined(answers))) == answers


@pytest.mark.parametrize("answer", ["4", "[1, 2]", '["a", 2]', '["', "[]", '["a"] or b'])
def test_any_other_text_is_one_answer(answer):
    assert accepted(answer) == (answer,)


def test_one_of_the_accepted_answers_is_enough():
    reward, answer = MathReward(), joined(["7", "x+1"])
    reward.check(answer)
    assert [
        reward.score("", rf"\boxed{{{text}}}", answer).reward for text in ("7", "1+x", "8")
    ] == [1, 1, 0]
