"""One reward for the engines where evaluation sets bring rewards of their own.

Engines score with a single reward. A prompt of a set with its own names that set in its answer,
which only the reward reads; every other prompt, and so all of training, goes to the run's reward.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from rollout.rewards.awaited import after
from rollout.rewards.returned import as_score
from rollout.rewards.types import NO_COLUMNS, Columns, Reward, Score, check_of, load, score_with
from rollout.types import Prompt

SEPARATOR = "\x1f"
"""The unit separator: a control character that no answer to be read has."""


@dataclass(frozen=True, slots=True)
class RewardBySet:
    """Scores each response with the reward of its set."""

    default: Reward
    """The reward of training, and of sets that name none of their own."""
    of_set: Mapping[str, Reward]
    """The rewards of sets with their own, by name of the set."""

    def score(
        self, prompt_text: str, response_text: str, answer: str, columns: Columns = NO_COLUMNS
    ) -> Score | Awaitable[Score]:
        """Score a response with the reward that its answer is addressed to."""
        name, separator, own_answer = answer.partition(SEPARATOR)
        chosen = self.default
        if separator and name in self.of_set:
            chosen, answer = self.of_set[name], own_answer
        returned = score_with(chosen, prompt_text, response_text, answer, columns)
        return after(returned, partial(as_score, scorer=chosen.score))

    def load(self) -> None:
        """Let all of them load what they need."""
        for reward in (self.default, *self.of_set.values()):
            load(reward)

    def check(self, answer: str) -> None:
        """Accept what the run's reward accepts; sets are checked with their own rewards."""
        check = check_of(self.default)
        if check is not None:
            check(answer)


def address(prompt: Prompt, name: str) -> Prompt:
    """Return the prompt with its answer addressed to the reward of a set."""
    return replace(prompt, answer=f"{name}{SEPARATOR}{prompt.answer}")


def own_answer(answer: str) -> str:
    """Return a prompt's answer as it is without the name of a set."""
    return answer.rpartition(SEPARATOR)[2]
