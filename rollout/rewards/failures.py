"""What a person is shown of a scoring that failed: why, and the response that it was about."""

from collections.abc import Sequence

from cost.types import RewardStatus
from rollout.rewards.pool import ScoredResponse

MAX_TEXT = 500
"""Characters shown of a prompt and of a response."""


def failure_text(
    scored: Sequence[ScoredResponse], responses: Sequence[str], prompt: str, answer: str
) -> str:
    """Describe the first crash of a group, else its first time-out; "" if all were scored.

    Args:
        scored: [n] How the scoring of each response ended.
        responses: [n] Their texts.
        prompt: The user's message.
        answer: The task's answer.
    """
    for status in (RewardStatus.CRASHED, RewardStatus.TIMED_OUT):
        for one, response in zip(scored, responses, strict=True):
            if one.status == status:
                return (
                    f"{one.error.strip()}\nprompt: {_cut(prompt)}\nanswer: {_cut(answer)}\n"
                    f"response: {_cut(response)}"
                )
    return ""


def _cut(text: str) -> str:
    left_out = len(text) - MAX_TEXT
    if left_out <= 0:
        return repr(text)
    # Answers stand at the end.
    half = MAX_TEXT // 2
    return f"{text[:half]!r} ... {left_out} characters ... {text[-half:]!r}"
