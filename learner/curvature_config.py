"""The settings under `learner.curvature`."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class RejectedShares:
    """Which share of an optimiser step's tokens CAPO may leave out, see `learner.token_masks`.

    The paper's thresholds are not known to us, so they are set from quantiles of the step (ours).

    Raises:
        ValueError: If a share is outside [0, 1), or they leave nothing together.
    """

    low: float = 0.0
    """Tokens of the least m_H, whose objective the step is to lower most."""
    high: float = 0.0
    """Tokens of the largest m_H, whose objective the step is to raise most."""
    shift: float = 0.0
    """Tokens of the largest m_F, whose log-probability the step is to change most."""

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing."""
        for key in ("low", "high", "shift"):
            share = getattr(self, key)
            if not 0 <= share < 1:
                raise ValueError(f"learner.curvature.{key} must lie in [0, 1), got {share!r}")
        total = self.low + self.high + self.shift
        if not total < 1:
            raise ValueError(
                f"learner.curvature.low, high and shift must sum to less than 1, got {total}"
            )

    @property
    def masks(self) -> bool:
        """Whether tokens may be left out at all."""
        return self.low + self.high + self.shift > 0
