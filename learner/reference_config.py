"""The settings under `learner.reference`."""

from dataclasses import dataclass

from cost.ranges import amount, require_ranges


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """Says which frozen policy the learner is kept near to, and how; see `learner.reference`.

    Raises:
        ValueError: If a value is not one of those named, or estimator and place do not go together.
    """

    kl_coefficient: float = 0.0
    """Weight of the divergence from the reference; 0 for none, and no reference is loaded."""
    kl_in: str = "loss"
    """"loss" adds the divergence to every token's loss, "reward" takes a response's divergence,
    less the group's mean, off the advantage that its reward gives. In either the coefficient is
    in units of advantage: no deviation of rewards divides it."""
    kl_estimator: str = "k3"
    """"k2" or "k3" in the loss, "k1" in the reward."""
    path: str | None = None
    """Local folder of the reference in Hugging Face format; null for the starting policy."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_ranges("learner.reference.", self, {"kl_coefficient": amount()})
        if self.kl_in not in ("loss", "reward"):
            raise ValueError(f"learner.reference.kl_in must be loss or reward, got {self.kl_in!r}")
        if self.kl_in == "reward" and self.kl_estimator != "k1":
            raise ValueError(
                "learner.reference.kl_estimator must be k1 with kl_in: reward, where the gradient "
                f"of another is not that of the divergence, got {self.kl_estimator!r}"
            )
        if self.kl_in == "loss" and self.kl_estimator not in ("k2", "k3"):
            raise ValueError(
                "learner.reference.kl_estimator must be k2 or k3 with kl_in: loss (the gradient of "
                f"k1 has mean zero; it goes with kl_in: reward), got {self.kl_estimator!r}"
            )

    @property
    def kl_in_loss(self) -> float:
        """Return the coefficient of the term in the loss; 0 without one."""
        return self.kl_coefficient if self.kl_in == "loss" else 0.0

    @property
    def kl_in_reward(self) -> float:
        """Return the coefficient of what is taken off the reward; 0 for nothing."""
        return self.kl_coefficient if self.kl_in == "reward" else 0.0
