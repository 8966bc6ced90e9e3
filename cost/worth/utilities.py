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
import numpy.typing as npt

from cost.prompts import PromptPool, Visit, visit_means
from cost.ranges import amount, positive, require_ranges
from cost.types import BoolArray, FloatArray, IntArray
from cost.worth.pass_rates import pass_counts
from cost.worth.posterior import expected_variance, mixed_chance
from cost.worth.predictors import RidgePredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState

MOST_CERTAIN = 0.01
"""A predicted pass rate is at least so far from 0 and 1: no prediction is a proof."""


def _weak_ridge() -> RidgePredictor:
    return RidgePredictor(ridge=1.0)


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
        require_ranges("utility.", self, {"prior_visits": positive(), "decay": amount(1)})

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
        return self._mean.update(state, prompts, _readings(visits, scored, moments, scored))

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
class PosteriorState:
    """What is kept of each prompt, 48 bytes, and the states of the two priors."""

    rates: ShrunkMeanState
    """Of pass rates; masses are responses."""
    log_moments: ShrunkMeanState
    """Of the logarithm of `PosteriorMoment`'s M; masses are mixed groups."""


@dataclass(frozen=True, slots=True)
class PosteriorMoment:
    """E[mean A^2] over what is believed of the pass rate, times what a unit of it was seen to be.

    V = E[mean A^2] M,    log M = mean of log (sum_j (a_j A_j)^2 S_j / sum_j A_j^2)

    A, S and a are those of `GroupSurprise`, which takes the mean of the product as it was seen.
    Here chance and size of the advantages are told apart: the first is a mean over a Beta
    distribution (cost/worth/posterior.py), to which groups all right or all wrong add as much as
    others; the second comes from groups with advantages alone, in logarithms, for it varies by
    powers of the length and has heavy tails. Ours.
    """

    standardised: bool = True
    """True where the advantages are divided by the group's deviation: E[mean A^2] is then the
    chance of a mixed group, else E p (1 - p)."""
    prior_responses: float = 4.0
    """How many responses the predicted pass rate counts for, positive."""
    prior_groups: float = 4.0
    """Mixed groups at which the prompt's own M and the prediction count the same, positive."""
    decay: float = 0.9
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior: Any = field(default_factory=_weak_ridge)
    """The `cost.worth.predictors.Predictor` of pass rates and of log M (hydra refuses the
    protocol)."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"prior_responses": positive(), "prior_groups": positive(), "decay": amount(1)}
        require_ranges("utility.", self, ranges)

    def initial_state(self, prompts: PromptPool) -> PosteriorState:
        """Return the state that values every prompt the same."""
        return PosteriorState(
            rates=self._mean(self.prior_responses).initial_state(prompts, 0.5),
            log_moments=self._mean(self.prior_groups).initial_state(prompts, 0.0),
        )

    def update(
        self, state: PosteriorState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> PosteriorState:
        """Take in visits, oldest first; groups without a usable reward are left out."""
        if not visits:
            return state
        counts, rates = pass_counts(visits)
        _, moments = _second_moments(visits)
        squares = np.concatenate([visit.advantages for visit in visits]) ** 2
        _, squares = visit_means(visits, squares, np.concatenate([v.usable for v in visits]))
        shown = (moments > 0) & (squares > 0)
        logs = np.zeros(len(visits))
        logs[shown] = np.log(moments[shown] / squares[shown])
        of_rates = _readings(visits, counts > 0, rates, counts)
        of_moments = _readings(visits, shown, logs, shown)
        return PosteriorState(
            rates=self._mean(self.prior_responses).update(state.rates, prompts, of_rates),
            log_moments=self._mean(self.prior_groups).update(
                state.log_moments, prompts, of_moments
            ),
        )

    def value(
        self,
        prompts: PromptPool,
        pass_rates: FloatArray,
        group_size: int,
        state: PosteriorState,
    ) -> FloatArray:
        """Return [N] float64 expected second moments, not negative."""
        passing, failing = self.posterior(prompts, state)
        expected = (
            mixed_chance(passing, failing, group_size)
            if self.standardised
            else expected_variance(passing, failing)
        )
        logs = self._mean(self.prior_groups).estimate(state.log_moments, prompts)
        # Only ratios matter; the largest first keeps the exponential from overflowing.
        logs -= logs.max()
        expected *= np.exp(logs, out=logs)
        return expected

    def posterior(
        self, prompts: PromptPool, state: PosteriorState
    ) -> tuple[FloatArray, FloatArray]:
        """Return a and b, [N] float64 each, of what is believed of the pass rates: Beta(a, b)."""
        passing = self.prior.predict(state.rates.prior, prompts)
        np.clip(passing, MOST_CERTAIN, 1 - MOST_CERTAIN, out=passing)
        passing *= self.prior_responses
        failing = self.prior_responses - passing
        passing += state.rates.totals
        failing += np.maximum(state.rates.masses - state.rates.totals, 0.0)
        return passing, failing

    def _mean(self, prior_count: float) -> ShrunkMean:
        return ShrunkMean(
            prior=self.prior, prior_count=prior_count, decay=self.decay, follow_drift=False
        )


@dataclass(frozen=True, slots=True)
class ConstantUtility:
    """Every draw is worth the same: draws then follow cost alone, p ~ 1 / sqrt(cost)."""

    def value(self, prompts: PromptPool, pass_rates: FloatArray, group_size: int) -> FloatArray:
        """Return [N] float64 ones."""
        return np.ones(prompts.num_prompts)


def _readings(
    visits: Sequence[Visit], counted: BoolArray, values: FloatArray, masses: npt.NDArray[Any]
) -> Readings:
    """Return what the counted ones of V visits say; `values` and `masses` are [V]."""
    return Readings(
        indices=np.array([visit.report.prompt_index for visit in visits])[counted],
        values=values[counted],
        masses=masses[counted].astype(np.float64),
        weights=np.array([visit.weight for visit in visits], dtype=np.float64)[counted],
    )


def _second_moments(visits: Sequence[Visit]) -> tuple[IntArray, FloatArray]:
    """Return [V] usable responses of each visit, and [V] their mean of (a A)^2 S."""
    norms = (
        np.concatenate([visit.factors for visit in visits]) ** 2
        * np.concatenate([visit.advantages for visit in visits]) ** 2
        * np.concatenate([visit.report.surprise for visit in visits])
    )
    return visit_means(visits, norms, np.concatenate([visit.usable for visit in visits]))
