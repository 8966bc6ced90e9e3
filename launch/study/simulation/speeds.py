"""How fast engines, learners and publishes are.

Seconds are of one accelerator unless said otherwise.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conf.checks import require
from cost.types import IntArray


def require_not_negative(settings: object, where: str, keys: tuple[str, ...]) -> None:
    """Raise a ValueError naming the first of the keys that is negative or not finite."""
    for key in keys:
        value = getattr(settings, key)
        require(0 <= value < math.inf, f"{where}{key} must be finite and not negative", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpeed:
    """How fast one engine is, and how often it fails.

    A decode step with n running sequences takes `step_seconds + n * sequence_seconds`; a prefilled
    token takes `prefill_token_seconds`, during which the engine decodes nothing.
    """

    max_num_seqs: int
    """Sequences that run at the same time, at least 1."""
    step_seconds: float
    """Of a decode step, whatever runs in it: reading the weights, launching, scheduling."""
    sequence_seconds: float
    """Of a decode step, for each running sequence: its keys and values, its arithmetic."""
    prefill_token_seconds: float
    """Of one prompt token."""
    ticket_seconds: float = 0.0
    """From the last token of a group to its report: rewards and transport."""
    accelerators: int = 1
    """Accelerators of one engine (tensor parallel), at least 1."""
    failures_per_hour: float = 0.0
    """Deaths of one accelerator in an hour of running; each takes its engine along."""
    restart_seconds: float = 0.0
    """From an engine's death until its replacement takes tickets."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("max_num_seqs", "accelerators"):
            value = getattr(self, key)
            require(value >= 1, f"profile.engine.{key} must be at least 1", value)
        keys = (
            "step_seconds", "sequence_seconds", "prefill_token_seconds", "ticket_seconds",
            "failures_per_hour", "restart_seconds",
        )  # fmt: skip
        require_not_negative(self, "profile.engine.", keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpeed:
    """How long L learners take for an update.

    pass over a batch = update_seconds + sequence_seconds x sequences / L + optimiser steps
    optimiser step = token_seconds x tokens of the fullest learner + all-reduce (for L > 1)

    The responses of an optimiser step are shared out one by one, as `learner.partition` does: its
    longest one bounds what more learners are of use. An all-reduce takes 2 (L - 1) / L x
    reduce_bytes / reduce_bytes_per_second + ceil(log2 L) x reduce_latency_seconds.
    """

    update_seconds: float = 0.0
    """Of a pass over a batch, whatever is in it."""
    token_seconds: float
    """Of a trained token, prompts repeated with each response: forward and backward."""
    sequence_seconds: float = 0.0
    """Of a trained response."""
    reduce_bytes: float = 0.0
    """Gradient that the learners add up in an optimiser step."""
    reduce_bytes_per_second: float = math.inf
    """Of one learner's link."""
    reduce_latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        keys = ("update_seconds", "token_seconds", "sequence_seconds", "reduce_bytes",
                "reduce_latency_seconds")  # fmt: skip
        require_not_negative(self, "profile.learner.", keys)
        require(
            self.reduce_bytes_per_second > 0,
            "profile.learner.reduce_bytes_per_second must be positive",
            self.reduce_bytes_per_second,
        )

    def seconds(
        self, parts: Sequence[IntArray], num_learners: int, *, reduces: bool = True
    ) -> float:
        """Return the seconds of one pass.

        Args:
            parts: By optimiser step [R] tokens of its responses, each with its prompt.
            num_learners: L.
            reduces: Whether each ends with an all-reduce.
        """
        return (
            self.update_seconds
            + self.token_seconds * sum(most_tokens(part, num_learners) for part in parts)
            + self.sequence_seconds * sum(map(len, parts)) / num_learners
            + reduces * len(parts) * self.reduce_seconds(num_learners)
        )

    def reduce_seconds(self, num_learners: int) -> float:
        """Return the seconds of one all-reduce."""
        sent = 2 * (num_learners - 1) / num_learners * self.reduce_bytes
        latency = math.ceil(math.log2(num_learners)) * self.reduce_latency_seconds
        return sent / self.reduce_bytes_per_second + latency


def most_tokens(tokens: IntArray, num_learners: int) -> int:
    """Return what the fullest learner has of [R] responses, longest first to whoever has least."""
    if num_learners == 1:
        return int(tokens.sum())
    loads = [0] * num_learners
    for count in np.sort(tokens)[::-1].tolist():
        heapq.heapreplace(loads, loads[0] + count)
    return max(loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSpeed:
    """How long a publish takes.

    The engines stand still for seconds + weight_bytes / bytes_per_second + engine_seconds x R; the
    learners then also wait for the parity probe, probe_seconds.
    """

    seconds: float
    weight_bytes: float = 0.0
    bytes_per_second: float = math.inf
    """At which one copy of the weights reaches all engines together (a broadcast)."""
    engine_seconds: float = 0.0
    """For each engine."""
    probe_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_not_negative(self, "profile.publish.", ("seconds", "weight_bytes", "engine_seconds",
                                       "probe_seconds"))  # fmt: skip
        require(
            self.bytes_per_second > 0,
            "profile.publish.bytes_per_second must be positive",
            self.bytes_per_second,
        )

    def still_seconds(self, num_engines: int) -> float:
        """Return the seconds for which the engines stand still."""
        transfer = self.weight_bytes / self.bytes_per_second
        return self.seconds + transfer + self.engine_seconds * num_engines
