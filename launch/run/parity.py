"""The parity guard: engine and learner must compute the same log-probabilities at the same version.

Faults in weight transfer are silent: every later sample simply comes from another policy. So both
score the same responses at one version; see `launch.run.parity_checks`. In float32 a maximum is a
test. Correct bfloat16 weights differ by 0.3 at times, so there mean and 99th percentile are
compared with a baseline measured at start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rollout.types import Group, TokenArray

Pair = tuple[TokenArray, TokenArray]
"""Tokens of a prompt and of the first of a response to it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Absolute difference of log-probabilities over the tokens of one probe, nats."""

    mean: float
    p99: float
    maximum: float

    @classmethod
    def between(
        cls, engine: Sequence[npt.NDArray[np.float32]], learner: Sequence[npt.NDArray[np.float32]]
    ) -> "Difference":
        """Compare log-probabilities; a non-finite value counts as an infinite difference.

        Args:
            engine: One array [T] a response, of the engine.
            learner: The same of the learner.
        """
        gap = np.abs(np.concatenate(list(engine)) - np.concatenate(list(learner)))
        gap = np.where(np.isfinite(gap), gap, np.inf)
        return cls(
            float(gap.mean()), float(np.quantile(gap, 0.99, method="higher")), float(gap.max())
        )

    @classmethod
    def largest(cls, found: Sequence["Difference"]) -> "Difference":
        """Return the largest of each figure over several probes."""
        return cls(
            max(d.mean for d in found), max(d.p99 for d in found), max(d.maximum for d in found)
        )


class ParityError(RuntimeError):
    """Engine and learner disagree by more than rounding."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still counts as rounding."""

    max_difference: float | None
    """Bound on the maximum in float32, nats; None compares with `baseline` instead."""
    slack: float = 2.0
    """Multiple of the baseline's mean and 99th percentile that is accepted."""
    baseline: Difference | None = None
    """What was measured at start; needed where `max_difference` is None."""

    def check(self, version: int, found: Difference) -> None:
        """Raise ParityError, naming version and difference, when `found` is not rounding."""
        if self.max_difference is not None:
            if found.maximum > self.max_difference:
                raise ParityError(
                    f"version {version}: engine and learner differ by {found.maximum:.3g} in one "
                    f"log-probability, parity.max_difference is {self.max_difference:g}; the "
                    "engine does not hold the published weights"
                )
            return
        assert self.baseline is not None
        for name in ("mean", "p99"):
            allowed = self.slack * max(getattr(self.baseline, name), 1e-3)
            if getattr(found, name) > allowed:
                raise ParityError(
                    f"version {version}: engine and learner log-probabilities differ by "
                    f"{getattr(found, name):.3g} ({name}), {allowed:.3g} is allowed from the "
                    "baseline at start; the engine does not hold the published weights"
                )


def metrics_of(found: Difference) -> dict[str, float]:
    """Name the figures of a check."""
    return {
        "parity/max_logprob_difference": found.maximum,
        "parity/mean_logprob_difference": found.mean,
    }


def pairs_of(groups: Sequence[Group], num_sequences: int, num_tokens: int) -> list[Pair]:
    """Take the beginnings of so many responses, of as many groups as there are.

    Args:
        groups: Of one batch.
        num_sequences: Most responses to take.
        num_tokens: Most tokens of each.
    """
    longest = max((len(group.trajectories) for group in groups), default=0)
    pairs = [
        # Copies, so that the store may let go of the group.
        (np.array(group.prompt.token_ids), np.array(group.trajectories[j].token_ids[:num_tokens]))
        for j in range(longest)
        for group in groups
        if j < len(group.trajectories) and len(group.trajectories[j].token_ids)
    ]
    return pairs[:num_sequences]
