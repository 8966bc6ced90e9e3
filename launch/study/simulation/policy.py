"""The policy that the simulation trains: pass rates that rise as the profile's law says.

A response's length, and the chance number that decides whether it passes, depend on seed and ticket
alone, as with requests that carry their own seeds: a retry repeats them.
"""

from array import array
from collections.abc import Sequence

import numpy as np

from cost.draws.streams import generator_for
from cost.types import BoolArray, FloatArray, IntArray, LengthReport, Selection, Ticket
from launch.study.simulation.pool import Scores
from launch.study.simulation.profile import Profile
from launch.study.simulation.task import PromptTable, logit, sigmoid


class SimulatedPolicy:
    """All versions of the policy.

    Args:
        profile: Lengths, pass rates and the law of learning.
        table: The prompts.
        seed: Of lengths and rewards.
    """

    def __init__(self, profile: Profile, table: PromptTable, seed: int) -> None:
        self._profile = profile
        self._table = table
        self._logits = logit(table.pass_rates)
        self._seed = seed
        # Eight bytes a version: a simulated run may be long.
        self._gained = array("d", [0.0])

    def lengths(self, ticket: Ticket) -> tuple[IntArray, BoolArray]:
        """Draw [n] lengths, and [n] whether the limit cut them."""
        rng = generator_for(self._seed, "lengths", ticket.ticket_id)
        mean = float(self._table.mean_tokens[ticket.prompt_index])
        lengths = self._profile.lengths.draw(mean, ticket.max_tokens, ticket.num_samples, rng)
        return lengths, lengths >= ticket.max_tokens

    def score(self, ticket: Ticket, lengths: IntArray, version: int) -> Scores:
        """Reward each response with 1 or 0; wrong answers all differ.

        Surprise is in proportion to length.
        """
        rng = generator_for(self._seed, "rewards", ticket.ticket_id)
        chance = sigmoid(self._logits[ticket.prompt_index] + self._gained[version])
        passed = rng.random(len(lengths)) < chance
        first = int(np.argmax(passed))
        return Scores(
            rewards=passed.astype(np.float64),
            surprise=self._profile.surprise_per_token * lengths.astype(np.float64),
            answer_codes=np.where(passed, first, np.arange(len(lengths))),
        )

    def learn(
        self, reports: Sequence[LengthReport], selections: Sequence[Selection], version: int
    ) -> None:
        """Take an update; the version in making gets what it gains.

        Args:
            reports: Of the batch.
            selections: Aligned.
            version: That the update starts from.
        """
        kept = [selection.keep for selection in selections]
        weights = _join([s.weight[keep] for s, keep in zip(selections, kept, strict=True)])
        advantages = _join([s.advantages[keep] for s, keep in zip(selections, kept, strict=True)])
        stale = [version - report.version for report in reports if report.num_responses]
        staleness = float(np.mean(stale)) if stale else 0.0
        gain = self._profile.learning.gain(weights, advantages, staleness)
        # Several passes over a batch work on the same version.
        if len(self._gained) == version + 1:
            self._gained.append(self._gained[version])
        self._gained[version + 1] += gain

    def pass_rate(self, version: int) -> float:
        """Return the mean over prompts of the chance that a response passes."""
        return float(np.mean(sigmoid(self._logits + self._gained[version])))

    def gained(self, version: int) -> float:
        """Return the logits gained since the start."""
        return self._gained[version]

    def logits_to(self, pass_rate: float) -> float:
        """Return the logits to gain from the start to a mean pass rate, at least 0."""
        if self.pass_rate(0) >= pass_rate:
            return 0.0
        low, high = 0.0, 64.0
        for _ in range(64):
            middle = (low + high) / 2
            reached = float(np.mean(sigmoid(self._logits + middle))) >= pass_rate
            low, high = (low, middle) if reached else (middle, high)
        return high


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros(0)
