"""The reward of environments that score themselves: 0 for plays that they did not come to score."""

from dataclasses import dataclass

from rollout.rewards.types import Score


@dataclass(frozen=True, slots=True)
class EnvironmentReward:
    """Gives 0.0; plays that ended with a reward of their environment's have that one instead."""

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a play without a reward of its own, such as one that was cut off."""
        return Score(0.0)
