"""The reward of reasoning-gym's questions: success or not, by the generator's own scorer.

The scorers give partial credit, for instance to an answer that merely contains the right one, which
a policy learns to exploit. Here one answer is taken out of the response, stripped, and only full
marks count.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from rollout.rewards.types import Score

FULL_MARKS = 0.99
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
# In "9-4" the 4 is not negative.
_NUMBER = re.compile(r"(?:(?<!\d)-)?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class ReasoningGymReward:
    """Gives 1.0 when the generator's scorer gives the extracted answer full marks, else 0.0."""

    dataset: str
    """Name of the generator that the task draws from."""
    extract: str = "tag"
    """"tag" takes the last <answer>...</answer>; "last_number" the last number of the response."""

    def __post_init__(self) -> None:
        """Refuse unknown generators and ways to extract."""
        from rollout.tasks.reasoning_gym import DATASETS

        if self.dataset not in DATASETS:
            raise ValueError(
                f"reward.dataset must be one of {', '.join(sorted(DATASETS))}, got {self.dataset!r}"
            )
        if self.extract not in ("tag", "last_number"):
            raise ValueError(f"reward.extract must be tag or last_number, got {self.extract!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`."""
        pattern = _TAG if self.extract == "tag" else _NUMBER
        found = pattern.findall(response_text)
        extracted = found[-1].strip() if found else ""
        if self.extract == "last_number":
            extracted = extracted.replace(",", "")
        marks = self._marks(prompt_text, extracted, answer) if extracted else 0.0
        correct = float(marks >= FULL_MARKS)
        return Score(correct, {"correct": correct, "format": float(bool(found))}, extracted)

    def load(self) -> None:
        """Import the generators."""
        _scorer(self.dataset)

    def check(self, answer: str) -> None:
        """Accept answers to which the scorer itself gives full marks."""
        if self.extract == "last_number" and not _NUMBER.fullmatch(answer):
            raise ValueError(f"reward.extract=last_number needs a number as answer, got {answer!r}")
        if self._marks("", answer, answer) < FULL_MARKS:
            raise ValueError(
                f"the scorer of {self.dataset} does not accept its own answer, got {answer!r}"
            )

    def _marks(self, question: str, extracted: str, answer: str) -> float:
        entry = {"question": question, "answer": answer, "metadata": {}}
        try:
            return float(_scorer(self.dataset).score_answer(answer=extracted, entry=entry))
        except ValueError:
            # The scorers raise this on text that is not a number where they expect one: no marks.
            return 0.0


@cache
def _scorer(dataset: str) -> Any:
    from rollout.tasks.reasoning_gym import open_dataset

    return open_dataset(dataset, seed=0, config={}, num_entries=1)
