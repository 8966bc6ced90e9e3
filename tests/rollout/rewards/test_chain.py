import pytest

from rollout.rewards.chain import ChainReward


@pytest.mark.parametrize(
    ("response", "reward", "extracted"),
    [
        ("b7 c5 #### 5", 1.0, "5"),
        ("b7 c5 ####5\n", 1.0, "5"),
        ("#### 05", 1.0, "05"),
        ("#### 4 #### 5", 1.0, "5"),
        ("#### 5 #### 4", 0.0, "4"),
        ("#### 5 or so", 0.0, ""),
        ("#### 5 4", 0.0, ""),
        ("####\n5", 0.0, ""),
        ("#### -5", 0.0, "-5"),
        ("#### 15", 0.0, "15"),
        ("#### 5.0", 0.0, ""),
        ("5", 0.0, ""),
        ("", 0.0, ""),
        ("#### \N{ARABIC-INDIC DIGIT FIVE}", 0.0, ""),
        ("#### " + "9" * 5000, 0.0, ""),
    ],
)
def test_only_the_number_at_the_end_counts(response, reward, extracted):
    score = ChainReward().score("a3 b+4 c-2", response, "5")
    assert (score.reward, score.extracted) == (reward, extracted)
    assert score.components == {"correct": reward, "format": float(bool(extracted))}


@pytest.mark.parametrize("answer", ["", "five", "5.0", "5 ", "\N{ARABIC-INDIC DIGIT FIVE}"])
def test_answers_that_no_response_can_match_are_refused(answer):
    with pytest.raises(ValueError, match=r"the chain reward needs a whole number as answer, got"):
        ChainReward().check(answer)


def test_whole_numbers_are_accepted():
    for answer in ("0", "-12"):
        ChainReward().check(answer)
