import pytest

from rollout.rewards.reasoning_gym import ReasoningGymReward


@pytest.mark.parametrize(
    ("response", "reward", "extracted"),
    [
        ("<answer>13</answer>", 1.0, "13"),
        ("<answer> 13\n</answer>", 1.0, "13"),
        ("<answer>12</answer> no, <answer>13</answer>", 1.0, "13"),
        ("<answer>13</answer> no, <answer>12</answer>", 0.0, "12"),
        ("<answer>The answer is 13</answer>", 0.0, "The answer is 13"),
        ("<answer>13 12 11 10</answer>", 0.0, "13 12 11 10"),
        ("<answer></answer>", 0.0, ""),
        ("13", 0.0, ""),
    ],
)
def test_a_tagged_answer_counts_in_full_or_not_at_all(response, reward, extracted):
    score = ReasoningGymReward("chain_sum").score("", response, "13")
    assert (score.reward, score.extracted) == (reward, extracted)


def test_the_scorers_do_give_partial_credit():
    # The trap that the reward closes: remove the test when the library closes it itself.
    from rollout.tasks.reasoning_gym import open_dataset

    entry = {"question": "", "answer": "1", "metadata": {}}
    dataset = open_dataset("gcd", seed=0, config={}, num_entries=1)
    marks = dataset.score_answer(answer="12345", entry=entry)
    assert 0.0 < marks < 1.0
    assert ReasoningGymReward("gcd").score("", "<answer>12345</answer>", "1").reward == 0.0


@pytest.mark.parametrize(
    ("response", "reward", "extracted"),
    [
        ("4 + 9 = 13", 1.0, "13"),
        ("The answer is 13.", 1.0, "13"),
        ("13, because 4 and 9", 0.0, "9"),
        ("it is 1,300", 0.0, "1300"),
        ("it is -13", 0.0, "-13"),
        ("it is 20-13", 1.0, "13"),
        ("no number", 0.0, ""),
    ],
)
def test_the_last_number_can_be_the_answer(response, reward, extracted):
    score = ReasoningGymReward("chain_sum", "last_number").score("", response, "13")
    assert (score.reward, score.extracted) == (reward, extracted)


def test_answers_that_cannot_be_extracted_are_refused():
    with pytest.raises(ValueError, match=r"last_number needs a number as answer, got 'x \+ 1'"):
        ReasoningGymReward("polynomial_multiplication", "last_number").check("x + 1")


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"reward.dataset must be one of .*got 'sudoku'"):
        ReasoningGymReward("sudoku")
    with pytest.raises(ValueError, match=r"reward.extract must be tag or last_number, got 'first'"):
        ReasoningGymReward("gcd", "first")
