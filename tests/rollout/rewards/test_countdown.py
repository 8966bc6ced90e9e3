import json

import pytest

from rollout.rewards.countdown import CountdownReward

ANSWER = json.dumps({"target": 98, "nums": [44, 19, 35]})


def reward(equation, answer=ANSWER):
    return CountdownReward().score("", f"<answer>{equation}</answer>", answer).reward


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("44 + 19 + 35", 1.0),
        ("35+(19+44) = 98", 1.0),
        ("-(-44 - 19) + 35", 1.0),
        ("44 + 19 - 35", 0.1),
        ("44 / (19 - 19)", 0.0),
        ("44 + 19 + 35 + 0", 0.0),
        ("44 + 54", 0.0),
        ("44 + 19 + 35)", 0.0),
        ("44 ** 19 - 35", 0.0),
        ("44 // 19 - 35", 0.0),
        ("__import__('os')", 0.0),
        ("(" * 150 + "44", 0.0),
        ("", 0.0),
    ],
)
def test_an_equation_is_worth_what_it_makes(equation, expected):
    assert reward(equation) == expected


def test_fractions_are_exact_and_the_last_answer_counts():
    assert reward("8 / (3 - 8 / 3)", '{"target": 24, "numbers": [3, 3, 8, 8]}') == 1.0
    text = "<answer>44 - 19</answer> no, <answer> <answer>44+19+35</answer>"
    assert CountdownReward().score("", text, ANSWER).reward == 1.0
    assert CountdownReward().score("", "44 + 19 + 35", ANSWER).reward == 0.0


@pytest.mark.parametrize("answer", ["98", '{"target": 98}', '{"target": "x", "nums": [1]}', "[1]"])
def test_an_answer_without_target_and_numbers_is_refused(answer):
    with pytest.raises(ValueError, match=r"set task\.answer to the columns"):
        CountdownReward().check(answer)
