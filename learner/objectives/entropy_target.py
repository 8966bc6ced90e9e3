"""AEPO: hold the policy's entropy at a target by the temperature of extra samples.

    gradient = gradient of the surrogate + alpha E_{y ~ pi^T} [grad log pi(y) R(y)]

pi^T is the policy at temperature T. Where it is flatter than the policy the second term raises the
entropy, where it is sharper it lowers it; rewards keep it on good responses. As a token loss the
second term is `Cispo(max_ratio=1, min_ratio=1)` with A = alpha R: REINFORCE that does not ask who
sampled. What is here is the switch alone; drawing tickets at a temperature is the rollouts' part.

Source: arXiv:2510.08141 and the authors' code.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EntropyTarget:
    """Which temperature the extra samples are drawn at.

    Raises:
        ValueError: If a setting is outside its range.
    """

    target: float = 0.5
    """Entropy of the policy per token to hold, nats, positive."""
    hot: float = 1.2
    """Temperature below the target, above 1."""
    cold: float = 0.8
    """Temperature at and above the target, in (0, 1)."""

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        if not self.target > 0:
            raise ValueError(f"entropy.target must be positive, got {self.target!r}")
        if not self.hot > 1:
            raise ValueError(f"entropy.hot must be above 1, got {self.hot!r}")
        if not 0 < self.cold < 1:
            raise ValueError(f"entropy.cold must lie in (0, 1), got {self.cold!r}")

    def temperature(self, entropy: float) -> float:
        """Return the temperature for a policy of this mean entropy per token, nats."""
        return self.hot if entropy < self.target else self.cold
