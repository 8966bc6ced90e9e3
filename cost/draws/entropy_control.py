"""Plug `entropy_control`: holds the policy's entropy near a target by exploring tickets.

AEPO (2510.08141) adds to the plain gradient a REINFORCE term on responses o that are sampled at
another temperature T, higher while the policy's entropy is below the target, lower else:

    grad J = grad J_plain + coefficient * E_{o ~ pi^T}[R(o) grad log pi(o)]

In the logits of a softmax policy the second term is Z (q - pi), q being pi^T among the rewarded
responses and Z its mean reward (ours): it pulls the policy towards what it samples at T, flatter
for a higher T and sharper for a lower one, and never towards responses without reward.

An exploring ticket repeats a ticket of the batch at such a temperature. Of its responses those with
a positive reward are trained on, all of them, with the reward for advantage; no statistic learns
from any. The authors' code generates about a quarter of the batch anew at T and puts the right
responses, with advantage 1, in the place of plain ones. Here they come beside the batch, which
stays as it is, because that is what the formula says; and a reward of 1 gives their advantage.

Contract: `temperature_factor(entropy) -> factor`, positive and never 1, `num_tickets(num_groups)`,
`coefficient`, `target` in nats and `objective_preserving`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from cost.ranges import positive, require_ranges


@runtime_checkable
class Explores(Protocol):
    """Says how many exploring tickets there are, and at which temperature."""

    objective_preserving: ClassVar[bool]
    coefficient: float
    target: float

    def temperature_factor(self, entropy: float) -> float:
        """Return what to multiply the run's temperature by."""

    def num_tickets(self, num_groups: int) -> int:
        """Return the number of exploring tickets beside so many plain ones."""


@dataclass(frozen=True, slots=True)
class EntropyControl:
    """A lower and a higher temperature, switched at the target: AEPO (2510.08141).

    Temperatures are factors on the run's own sampling temperature, by which the learner divides
    logits too: at the paper's sampling temperature of 1 they are its temperatures.

    Until a batch was learned the entropy is not known, and there are no exploring tickets: either
    temperature could push the wrong way.
    """

    coefficient: float = 0.25
    """Factor of the REINFORCE term, positive. The default is ours, the paper's is not known: with a
    share of a quarter an exploring response counts as much as a plain one, as in a batch that mixes
    them."""
    target: float = 0.5
    """Entropy to hold, in nats per token, as `learner/entropy` measures it. The default is the
    paper's, in which .75 did best."""
    share: float = 0.25
    """Exploring tickets over plain ones, in (0, 1]; there is at least one exploring ticket."""
    lower_temperature: float = 0.8
    """Factor while the entropy is at the target or above, in (0, 1)."""
    higher_temperature: float = 1.2
    """Factor while the entropy is below the target, above 1."""

    objective_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"coefficient": positive(), "target": positive(), "share": positive(1)}
        require_ranges("entropy_control.", self, ranges)
        if not 0 < self.lower_temperature < 1:
            raise ValueError(
                "entropy_control.lower_temperature must lie in (0, 1), below the run's own "
                f"temperature, got {self.lower_temperature!r}"
            )
        if not 1 < self.higher_temperature < math.inf:
            raise ValueError(
                "entropy_control.higher_temperature must be finite and above 1, the run's own "
                f"temperature, got {self.higher_temperature!r}"
            )

    def temperature_factor(self, entropy: float) -> float:
        """Return what to multiply the run's temperature by.

        Args:
            entropy: The entropy of the policy, in nats per token; not NaN.
        """
        return self.higher_temperature if entropy < self.target else self.lower_temperature

    def num_tickets(self, num_groups: int) -> int:
        """Return the number of exploring tickets beside so many plain ones, at least 1."""
        return max(round(self.share * num_groups), 1)
