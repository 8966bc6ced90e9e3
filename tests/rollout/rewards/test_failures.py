import pytest

from cost.types import RewardStatus
from rollout.rewards.failures import MAX_TEXT, failure_text
from rollout.rewards.pool import ScoredResponse
from rollout.rewards.types import Score

OK = ScoredResponse(Score(1.0), RewardStatus.OK, "")
LATE = ScoredResponse(None, RewardStatus.TIMED_OUT, "took too long")
CRASHED = ScoredResponse(None, RewardStatus.CRASHED, "Traceback\nKeyError: 'lost'\n")


@pytest.mark.parametrize(
    ("scored", "reason", "response"),
    [
        ([OK, LATE, CRASHED], "Traceback\nKeyError: 'lost'", "two"),
        ([LATE, LATE, OK], "took too long", "zero"),
    ],
)
def test_the_first_crash_is_told_with_its_response_before_any_time_out(scored, reason, response):
    text = failure_text(scored, ["zero", "one", "two"], "what?", "5")
    assert text == f"{reason}\nprompt: 'what?'\nanswer: '5'\nresponse: {response!r}"


def test_nothing_is_told_of_what_was_scored():
    assert failure_text([OK], ["zero"], "what?", "5") == ""


def test_long_texts_keep_both_ends_on_a_line():
    response = "begin\n" + "x" * 10_000 + "\nthe end"
    text = failure_text([CRASHED], [response], "y" * 10_000, "5")
    *_, last = text.splitlines()
    assert last.startswith("response: 'begin\\n") and last.endswith("\\nthe end'")
    assert f"{len(response) - MAX_TEXT} characters" in last and len(text) < 4 * MAX_TEXT
