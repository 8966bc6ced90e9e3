"""GVM (2505.02391): group sizes by gradient norm and pass rate, for a fixed total.

    minimise sum_i G_i^2 / (p_i n_i (1 + alpha / p_i^beta))   subject to   sum_i n_i = total
    n_i = total u_i / sum u,    u = G / sqrt(p + alpha / p^(beta - 1))          (Proposition 1)

p_i is the pass rate and G_i the mean norm of the gradient of the log-probability, summed over
tokens, of correct responses: the variance of the estimator that averages over accepted responses
with weights 1 / (n_i p_i) (Lemma 1). alpha > 0 discounts prompts that are nearly never solved; for
beta = 2 u is largest at p = sqrt(alpha) (ours).

With a cost c_i per response and sum n_i c_i = budget, n_i ~ u_i / sqrt(c_i) (ours).

`Gvm` measures p and G by pilots, as the paper does. `SurpriseGvm` takes both from past visits.

A group of one has no advantage: its response is spent for nothing where advantages compare the
responses of a group. `min_samples` of at least 2, or `split`, avoids such groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from cost.draws.allocators.drawn import Drawn, draw_round
from cost.draws.allocators.integers import check_bounds, proportional, rounded
from cost.draws.allocators.types import BatchSoFar, Round, Snapshot
from cost.draws.draws import EpochDraws
from cost.prompts import PromptPool, Visit
from cost.ranges import Range, amount, count, positive, require_ranges
from cost.types import FloatArray, IntArray, LengthReport
from cost.worth.predictors import RidgePredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState

_DISCOUNT = {"alpha": amount(), "beta": Range(2, 1000)}


@dataclass(frozen=True, slots=True)
class Gvm(Drawn):
    """Two rounds: pilots of P uniformly drawn prompts, then as many responses as they suggest.

    Prompts with no correct pilot get no response, as published. Their next chance is their next
    pilot; until then the objective leaves them out. They get no ticket either, so the learner
    divides by the m groups that remain; weights of m / P put the divisor P back, which depends on
    no reward. If no prompt at all has a correct pilot, groups are equal (ours).

    The paper estimates once for a large batch that it then optimises on for 10 stages; here each
    batch of P prompts has its own pilots, so that estimates are never old and pilots cost
    `pilots` / group_size of what is trained on. Pilots are never trained on.
    """

    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol)."""
    pilots: int = 8
    """N', responses of each prompt's pilot, at least 1."""
    alpha: float = 1e-3
    """Discount of prompts that are nearly never solved, not negative."""
    beta: float = 2.0
    """How fast that discount grows as p sinks, at least 2."""
    min_samples: int = 0
    """Least responses of every prompt, at most the group size; 0 as published. With at least 2
    every prompt counts the same again, and the uniform objective is kept."""
    split: int | None = None
    """GVM-GRPO: a prompt with n_i responses becomes n_i / split groups of this size (published: 4),
    which must divide P * group_size. Each of these groups counts the same, so a prompt counts as
    often as it is copied. None gives each prompt one group."""
    cost_aware: bool = False
    """True limits sum n_i c_i to P * group_size * (mean c_i). Pilots are not part of it."""

    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = _DISCOUNT | {"pilots": count(), "min_samples": amount()}
        require_ranges("allocator.", self, ranges)
        if self.split is not None and self.split < 2:
            raise ValueError(f"allocator.split must be at least 2 or null, got {self.split!r}")
        if self.split is not None and self.min_samples % self.split:
            raise ValueError(
                f"allocator.min_samples must be a multiple of allocator.split ({self.split}), "
                f"got {self.min_samples!r}"
            )

    @property
    def objective_preserving(self) -> bool:
        """Whether every drawn prompt is learned from, and counts the same."""
        return self.min_samples >= 2 and self.split is None

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator, state: Any
    ) -> tuple[Round, Any]:
        """Return the pilots; when they are reported, the batch.

        Raises:
            ValueError: If `min_samples` or `split` does not fit the group size.
        """
        unit = self.split or 1
        check_bounds(so_far.group_size, self.min_samples)
        if so_far.num_groups * so_far.group_size % unit:
            raise ValueError(
                "allocator.split must divide scheduler.tickets_per_step * scheduler.group_size "
                f"({so_far.num_groups * so_far.group_size}), got {unit!r}"
            )
        if not so_far.tickets:
            indices, state = self.draws.draw(state, snapshot.prepared, so_far.num_groups, rng)
            sizes = np.full(len(indices), self.pilots, dtype=np.int64)
            return (
                draw_round(
                    indices, sizes, snapshot, trainable=False, gradient_norms=True, final=False
                ),
                state,
            )
        indices = np.array([ticket.prompt_index for ticket in so_far.tickets], dtype=np.int64)
        rates, norms = pilot_statistics(so_far)
        counts = allotted(
            rates,
            norms_to_shares(rates, norms, self.alpha, self.beta),
            snapshot.estimates.costs[indices] if self.cost_aware else np.ones(len(indices)),
            so_far.group_size / unit,
            self.min_samples // unit,
        )
        if self.split is None:
            chosen = counts > 0
            drawn = draw_round(indices[chosen], counts[chosen], snapshot)
            weights = drawn.weights * (len(drawn.indices) / so_far.num_groups)
            return replace(drawn, weights=weights), state
        copies = np.repeat(indices, counts)
        return draw_round(copies, np.full(len(copies), unit, dtype=np.int64), snapshot), state


@dataclass(frozen=True, slots=True)
class SurpriseGvmState:
    """Norms of each prompt and the state of the draws; 24 bytes a prompt beside that state."""

    draws: Any
    mean: ShrunkMeanState
    squared_norms: FloatArray
    """[N] estimates that `mean` gave when it was last updated."""


@dataclass(frozen=True, slots=True)
class SurpriseGvm(Drawn):
    """One round without pilots: p and G of uniformly drawn prompts from past visits.

    G_i^2 is a running mean of the surprise over correct responses, shrunk to a prediction from
    features: surprise follows the squared gradient norm of a response and costs no backward pass.
    p_i is the scheduler's pass rate. This member is ours, not the paper's.

    Group sizes are known before the draw. The objective is kept as `Knapsack` keeps it.
    """

    draws: Any = field(default_factory=EpochDraws)
    """The way of drawing, a `cost.draws.draws.Draws` (hydra refuses the protocol)."""
    alpha: float = 1e-3
    """Discount of prompts that are nearly never solved, not negative."""
    beta: float = 2.0
    """How fast that discount grows as p sinks, at least 2."""
    min_samples: int = 2
    """Least responses of every prompt, at least 2, at most the group size: without pilots a prompt
    with no response would never be seen again."""
    cost_aware: bool = False
    """True limits sum n_i c_i to P * group_size * (mean c_i)."""
    prior_visits: float = 4.0
    """Visits at which the prompt's own mean and the prediction count the same."""
    decay: float = 0.9
    """What a visit counts after one more visit of the same prompt, in [0, 1]."""
    prior: Any = field(default_factory=RidgePredictor)
    """`cost.worth.predictors.Predictor` for prompts with few or no visits (hydra refuses the
    protocol)."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    varies_group_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.min_samples < 2:
            raise ValueError(
                "allocator.min_samples must be at least 2, since advantages compare the responses "
                f"of a group, got {self.min_samples!r}"
            )
        ranges = _DISCOUNT | {"prior_visits": positive(), "decay": amount(1)}
        require_ranges("allocator.", self, ranges)

    def initial_state(self, prompts: PromptPool) -> SurpriseGvmState:
        """Return the state in which all prompts have the same norm."""
        return SurpriseGvmState(
            draws=self.draws.initial_state(prompts.num_prompts),
            mean=self._mean.initial_state(prompts, 1.0),
            squared_norms=np.ones(prompts.num_prompts),
        )

    def update(
        self, state: SurpriseGvmState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> SurpriseGvmState:
        """Take in visits, oldest first; groups without a correct response are left out."""
        solved = [(visit, correctness(visit.report)) for visit in visits]
        solved = [(visit, correct) for visit, correct in solved if correct.any()]
        means = [correct @ visit.report.surprise / correct.sum() for visit, correct in solved]
        readings = Readings(
            indices=np.array([visit.report.prompt_index for visit, _ in solved], dtype=np.int64),
            values=np.array(means, dtype=np.float64),
            masses=np.ones(len(solved)),
            weights=np.array([visit.weight for visit, _ in solved], dtype=np.float64),
        )
        mean = self._mean.update(state.mean, prompts, readings)
        estimates = np.maximum(self._mean.estimate(mean, prompts), 0.0)
        return SurpriseGvmState(draws=state.draws, mean=mean, squared_norms=estimates)

    def next_round(
        self,
        so_far: BatchSoFar,
        snapshot: Snapshot,
        rng: np.random.Generator,
        state: SurpriseGvmState,
    ) -> tuple[Round, SurpriseGvmState]:
        """Draw P prompts, which are the whole batch.

        Raises:
            ValueError: If `min_samples` exceeds the group size.
        """
        check_bounds(so_far.group_size, self.min_samples)
        indices, draws = self.draws.draw(state.draws, snapshot.prepared, so_far.num_groups, rng)
        estimates = snapshot.estimates
        norms = np.sqrt(state.squared_norms[indices])
        rates = estimates.pass_rates[indices]
        sizes = allotted(
            rates,
            norms_to_shares(rates, norms, self.alpha, self.beta),
            estimates.costs[indices] if self.cost_aware else np.ones(len(indices)),
            so_far.group_size,
            self.min_samples,
        )
        drawn = draw_round(indices, sizes, snapshot)
        return drawn, SurpriseGvmState(draws, state.mean, state.squared_norms)

    @property
    def _mean(self) -> ShrunkMean:
        return ShrunkMean(
            prior=self.prior, prior_count=self.prior_visits, decay=self.decay, follow_drift=True
        )


def norms_to_shares(
    rates: FloatArray, norms: FloatArray, alpha: float = 1e-3, beta: float = 2.0
) -> FloatArray:
    """Return u = G / sqrt(p + alpha / p^(beta - 1)), 0 where p = 0 (Proposition 1).

    Args:
        rates: [m] float64 pass rates in [0, 1].
        norms: [m] float64 mean gradient norms of correct responses, not negative.
        alpha: Discount of prompts that are nearly never solved, not negative.
        beta: How fast that discount grows as p sinks, at least 2.
    """
    shares = np.zeros(len(rates))
    solved = rates > 0
    p = rates[solved]
    # The discount of a tiny p may be infinite, and then u is 0 as it should be.
    with np.errstate(over="ignore"):
        discount = alpha * p ** (1 - beta) if alpha > 0 else 0.0
    shares[solved] = norms[solved] / np.sqrt(p + discount)
    return shares


def allotted(
    rates: FloatArray, shares: FloatArray, costs: FloatArray, mean_size: float, min_samples: int
) -> IntArray:
    """Turn shares into whole numbers that keep the sum, up to a rest that pays for no response.

    Numbers are rounded down; the remainder goes to prompts with a positive share, low pass rates
    first (the paper's code).

    Args:
        rates: [m] float64 pass rates in [0, 1].
        shares: [m] float64 u, not negative; if all are zero, all count the same (ours).
        costs: [m] float64 cost of a response, positive; ones for a sum in responses.
        mean_size: The budget is this times sum(costs).
        min_samples: Least number of responses of each prompt, at most `mean_size`.

    Returns:
        [m] int64.
    """
    budget = mean_size * float(costs.sum())
    if not shares.any():
        shares = np.ones(len(shares))
    amounts = proportional(shares / np.sqrt(costs), costs, budget, min_samples)
    order = np.argsort(rates, kind="stable")
    return rounded(amounts, costs, budget, order[shares[order] > 0])


def pilot_statistics(so_far: BatchSoFar) -> tuple[FloatArray, FloatArray]:
    """Return [m] pass rates of the pilots, and [m] mean gradient norms of the correct ones.

    Rewards between 0 and 1 count partly, in both. A pilot that failed has zeros.

    Raises:
        ValueError: If a ticket has not one norm for each of its responses.
    """
    rates, norms = np.zeros(len(so_far.tickets)), np.zeros(len(so_far.tickets))
    for position, report in enumerate(so_far.reports):
        correct = correctness(report)
        gradient_norms = so_far.gradient_norms[report.ticket_id]
        if len(gradient_norms) != len(correct):
            raise ValueError(
                f"gradient norms of ticket {report.ticket_id} must be those of its {len(correct)} "
                f"responses, got {len(gradient_norms)!r}"
            )
        if correct.any():
            rates[position] = correct.sum() / report.usable.sum()
            norms[position] = correct @ gradient_norms / correct.sum()
    return rates, norms


def correctness(report: LengthReport) -> FloatArray:
    """Return [n] in [0, 1] how correct each response is: its reward, 0 where not usable."""
    ok = report.usable
    correct = np.zeros(report.num_responses)
    correct[ok] = np.clip(report.rewards[ok], 0, 1)
    return correct
