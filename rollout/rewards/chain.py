"""The reward of the chain task: the number after the last ####."""

import re
from dataclasses import dataclass

from rollout.rewards.types import Score

_ANSWER = re.compile(r"####[ \t]*(-?[0-9]{1,18})\s*\Z")


@dataclass(frozen=True, slots=True)
class ChainReward:
    """Gives 1.0 when the response ends in "#### " and the right number, else 0.0.

    Text after the number makes the response wrong: a response states one answer, at its end.
    """

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`."""
        found = _ANSWER.search(response_text)
        extracted = found.group(1) if found else ""
        correct = float(bool(found) and int(extracted) == int(answer))
        return Score(correct, {"correct": correct, "format": float(bool(found))}, extracted)

    def check(self, answer: str) -> None:
        """Accept whole numbers."""
        if not re.fullmatch(r"-?[0-9]{1,18}", answer):
            raise ValueError(f"the chain reward needs a whole number as answer, got {answer!r}")
