"""Profiles: everything about a machine, a model and a task that the simulation has to be told.

    measured   `python -m launch.simulate fit=RUN_FOLDER out=conf/profile/NAME.yaml`
    stated     numbers from data sheets and judgement; `source` says so

Keys are `profile.*`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.checks import require
from cost.types import FloatArray
from launch.study.simulation.speeds import (
    EngineSpeed,
    LearnerSpeed,
    PublishSpeed,
    require_not_negative,
)
from launch.study.simulation.task import ResponseLengths


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningLaw:
    """How the policy gets better. An assumption: what the simulation says of quality hangs on it.

    An update adds the same to the logit of every prompt's pass rate:

        gain_logits * m / (m + noise_responses) * (1 - staleness_discount)^staleness

    m is the effective number of responses that carry gradient, (sum |w A|)^2 / sum (w A)^2 over
    the responses kept, with weight w and advantage A. The middle factor is the law of diminishing
    returns of larger batches, 1 / (1 + B_noise / B) (McCandlish et al. 2018, arXiv:1812.06162,
    section 2.2), with m for B; that it holds for the logits of pass rates is ours and unproved.
    """

    gain_logits: float
    """Of one update on endlessly many responses."""
    noise_responses: float
    """Responses at which an update does half as much."""
    staleness_discount: float = 0.0
    """Share of an update that each version of mean staleness takes away, in [0, 1); 0 lets
    staleness cost nothing."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_not_negative(self, "profile.learning.", ("gain_logits", "noise_responses"))
        require(
            0 <= self.staleness_discount < 1,
            "profile.learning.staleness_discount must lie in [0, 1)",
            self.staleness_discount,
        )

    def gain(self, weights: FloatArray, advantages: FloatArray, staleness: float) -> float:
        """Return the logits that an update on [R] kept responses adds."""
        worth = np.abs(weights * advantages)
        squares = float(np.sum(worth**2))
        if squares == 0:
            return 0.0
        effective = float(np.sum(worth)) ** 2 / squares
        share = effective / (effective + self.noise_responses)
        return float(self.gain_logits * share * (1 - self.staleness_discount) ** staleness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A machine, a model and a task."""

    source: str
    """Where the numbers come from: "measured: ..." or "stated: ..."."""
    accelerator: str
    """What one is, e.g. "CPU core"."""
    max_tokens: int
    """Largest number of tokens in a response."""
    surprise_per_token: float
    """Mean surprise of a token."""
    prompts: Any
    """`MeasuredPrompts` or `StatedPrompts`."""
    lengths: ResponseLengths
    learning: LearningLaw
    engine: EngineSpeed
    learner: LearnerSpeed
    publish: PublishSpeed
    engine_slowdown: float = 1.0
    """Factor on the engines' seconds while the learners compute too, at least 1; above 1 where they
    share cores or memory."""
    learner_slowdown: float = 1.0
    """The same for the learners' seconds while an engine computes."""
    colocated: bool = False
    """Whether the two factors are of engines and learners on the same accelerators."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(
            hasattr(self.prompts, "table"),
            "profile.prompts must have the method table",
            self.prompts,
        )
        require(self.max_tokens >= 1, "profile.max_tokens must be at least 1", self.max_tokens)
        require_not_negative(self, "profile.", ("surprise_per_token",))
        for key in ("engine_slowdown", "learner_slowdown"):
            value = getattr(self, key)
            require(1 <= value < math.inf, f"profile.{key} must be finite and at least 1", value)
