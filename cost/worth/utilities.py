"""Plug `utility`: expected second moment V of a ticket's gradient, per prompt, up to one factor.

Contract: `value(prompts, pass_rates, group_size) -> [N] float64`, not negative, finite; a member
that learns also takes `state=`.

With draws of probability p and weights 1 / (N p), the estimator's second moment is sum V_i / p_i,
so the draw rule is p ~ sqrt(V / cost). Only ratios between prompts matter. One visit's statistics
are noise (measured: group pass rates repeat with r = .6): every member shrinks hard to the pool or
to a prediction from features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cost.prompts import PromptPool, Visit, visit_means
from cost.types import FloatArray, IntArray
from cost.worth.predictors import RidgePredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState


@runtime_checkable
class Utility(Protocol):
    """Values a draw of each prompt."""

    def value(self, prompts: PromptPool, pass_rates: FloatArray, group_size: int) -> FloatArray:
        """Return [N] float64 expected second moment of a ticket's gradient.

        Args:
            prompts: The N prompts.
            pass_rates: [N] expected pass rates in [0, 1], already shrunk.
            group_size: Responses in a group.
        """


@dataclass(frozen=True, slots=True)
class PassRateVariance:
    """Variance of the advantages that a group of a prompt with pass rate a is expected to have.

    a (1 - a) for rewards minus the group mean; with rewards divided by the group's deviation every
    mixed group has mean A^2 = 1, so the chance of a mixed group, 1 - a^n - (1 - a)^n.
    """

    standardised: bool = False
    """True where the advantages are divided by the group's deviation."""

    def value(self, prompts: PromptPool, pass_rates: FloatArray, group_size: int) -> FloatArray:
        """Return [N] float64 expected variance, in [0, 1]."""
        if self.standardised:
            return np.maximum(1 - pass_rates**group_size - (1 - pass_rates) ** group_size, 0.0)
        return pass_rates * (1 - pass_rates)


@dataclass(frozen=True, slots=True)
class GroupSurprise:
    """Running mean of (1/n) sum_j (a_j A_j)^2 S_j: what the group's gradients were seen to be.

    A is the advantage, S the surprise and a the aggregation factor (1 / length for the sequence
    mean, the same for all for token sums). A^2 S follows the squared gradient norm of a response
    (r = .96, SmolLM2-135M) and costs no backward pass. This member is ours, not the paper's.
    """

    prior_visits: float = 4.0
    """Visits at which the prompt's own mean and the prediction count the same."""
    decay: float = 0.9
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior: Any = field(default_factory=RidgePredictor)
    """The `cost.worth.predictors.Predictor` for prompts with few or no visits (hydra refuses the
    protocol)."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if not self.prior_visits > 0:
            raise ValueError(f"utility.prior_visits must be positive, got {self.prior_visits!r}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"utility.decay must lie in [0, 1], got {self.decay!r}")

    def initial_state(self, prompts: PromptPool) -> ShrunkMeanState:
        """Return the state that values every prompt the same."""
        return self._mean.initial_state(prompts, 1.0)

    def update(
        self, state: ShrunkMeanState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> ShrunkMeanState:
        """Take in visits, oldest first; groups without a usable reward are left out."""
        if not visits:
            return state
        counts, moments = _second_moments(visits)
        scored = counts > 0
        readings = Readings(
            indices=np.array([visit.report.prompt_index for visit in visits])[scored],
            values=moments[scored],
            masses=np.ones(int(scored.sum())),
            weights=np.array([visit.weight for visit in visits], dtype=np.float64)[scored],
        )
        return self._mean.update(state, prompts, readings)

    def value(
        self,
        prompts: PromptPool,
        pass_rates: FloatArray,
        group_size: int,
        state: ShrunkMeanState,
    ) -> FloatArray:
        """Return [N] float64 expected second moments, not negative."""
        values = self._mean.estimate(state, prompts)
        return np.maximum(values, 0.0, out=values)

    @property
    def _mean(self) -> ShrunkMean:
        return ShrunkMean(
            prior=self.prior, prior_count=self.prior_visits, decay=self.decay, follow_drift=True
        )


@dataclass(frozen=True, slots=True)
class ConstantUtility:
    """Every draw is worth the same: draws then follow cost alone, p ~ 1 / sqrt(cost)."""

    def value(self, prompts: PromptPool, pass_rates: FloatArray, group_size: int) -> FloatArray:
        """Return [N] float64 ones."""
        return np.ones(prompts.num_prompts)


def _second_moments(visits: Sequence[Visit]) -> tuple[IntArray, FloatArray]:
    """Return [V] usable responses of each visit, and [V] their mean of (a A)^2 S."""
    norms = (
        np.concatenate([visit.factors for visit in visits]) ** 2
        * np.concatenate([visit.advantages for visit in visits]) ** 2
        * np.concatenate([visit.report.surprise for visit in visits])
    )
    return visit_means(visits, norms, np.concatenate([visit.usable for visit in visits]))
