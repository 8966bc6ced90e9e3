"""Plug `thinning`: which finished responses to train on.

Contract: `thin(candidates, rng) -> Thinning`. Responses that are not usable are never kept. Where
`objective_preserving`, every usable response with a gradient is kept with its probability q > 0, so
that weights 1 / q leave the expected gradient as it is, given the batch. Lengths and advantages may
decide because both are known by then, and advantages come from full groups.

A response of advantage exactly 0 has a gradient of exactly zero, unless the loss has a KL or
entropy term. `keeps_zero_advantage` says whether a rule keeps such responses with q > 0: only then
may the loss have such a term.

With penalties (`cost.advantages.penalties`) nearly every response has an advantage other than 0,
also in groups whose rewards are all equal. To a rule with a budget these are candidates like all
others, but only a part of their cost adds to the budget: if all of it did, they would raise the
number of responses to keep, however little they teach.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from cost.draws.draws import systematic_counts
from cost.ranges import positive, require_ranges
from cost.thinning.waterfill import waterfill
from cost.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Candidates:
    """All M responses of a batch, group after group."""

    scores: FloatArray
    """[M] guesses of gradient norms, not negative."""
    costs: FloatArray
    """[M] what training on each costs, positive."""
    advantages: FloatArray
    """[M] advantages from the full groups."""
    rewards: FloatArray
    """[M] rewards; NaN where not usable."""
    usable: BoolArray
    """[M] True for what may be trained on."""
    groups: IntArray
    """[M] position of the response's group in the batch."""
    progress: float = 0.0
    """Share of the run's batches that are done, in [0, 1]."""
    penalties: FloatArray | None = None
    """[M] penalties that the advantages contain, in units of advantage; None for none."""
    signal: BoolArray | None = None
    """[M] True where the rewards give an advantage other than 0; None without penalties."""
    generating_cost: float = 0.0
    """What generating all of them cost, in the unit of `costs`; 0 where the price does not say."""
    prompt_costs: FloatArray | None = None
    """[M] the part of `costs` that is for the prompt, where the learner computes a prompt once for
    all kept responses of its group, the same for all of them; None where it repeats the prompt."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """What to keep, and with which probability it was kept."""

    keep: BoolArray
    """[M] True for the responses to train on."""
    probabilities: FloatArray
    """[M] q in [0, 1], positive where kept. For a rule that does not preserve the objective it is
    (number selected) / (number of candidates), so that weights 1 / q give the mean over what it
    selects."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of this thinning, by keys of `cost.ledger.METRICS`."""
    advantages: FloatArray | None = None
    """[M] advantages to train with instead of those of the full groups; None leaves them."""
    token_share: float = 1.0
    """Share of the kept responses' tokens to train on, those of largest |advantage| x entropy, in
    (0, 1]."""


@runtime_checkable
class ThinningRule(Protocol):
    """Decides which responses to keep."""

    objective_preserving: ClassVar[bool]

    @property
    def keeps_zero_advantage(self) -> bool:
        """Whether every usable response of advantage 0 is kept with a positive probability."""

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Draw the responses to train on."""


@runtime_checkable
class SpendingRule(ThinningRule, Protocol):
    """A rule with a state (cost/state.py) that depends on what it kept of earlier batches."""

    def entered(self, state: Any) -> Any:
        """Return the state at the start of a new batch, from which the one before it counts."""

    def thinned(self, state: Any, candidates: Candidates, thinning: Thinning) -> Any:
        """Return the state after the first pass over a batch; `entered` makes that pass count."""


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Train on every usable response, zero advantages included; q is exactly 1."""

    objective_preserving: ClassVar[bool] = True
    keeps_zero_advantage: ClassVar[bool] = True

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Keep what is usable; `rng` is not used."""
        usable = candidates.usable
        return Thinning(keep=usable.copy(), probabilities=usable.astype(np.float64))


@dataclass(frozen=True, slots=True)
class NonZero:
    """Train on every usable response whose advantage is not 0; q is exactly 1.

    The gradient is that of `KeepAll` to the last response, for fewer tokens: the baseline against
    which a rule's saving means something. With penalties hardly any advantage is 0, and it keeps
    what `KeepAll` does.
    """

    objective_preserving: ClassVar[bool] = True
    keeps_zero_advantage: ClassVar[bool] = False

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Keep what has a gradient; `rng` is not used."""
        keep = candidates.usable & (candidates.advantages != 0)
        return Thinning(keep=keep, probabilities=keep.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Budgeted:
    """Base of rules that spend a share of the cost on what has the largest scores.

    A subclass gives `scores`.
    """

    budget: float = 0.5
    """Share of the candidates' cost to spend, in (0, 1]. Candidates are the usable responses whose
    advantage is not 0, so the saving on the whole batch is larger. A response whose advantage comes
    from a penalty alone adds less to the sum: of the share r = |A| / (mean |A| of the responses
    whose rewards give one), at most 1, of its cost this budget, of the rest only the floor."""
    floor: float = 0.02
    """Least q of a candidate, in (0, 1]; a floor above the budget is lowered to it."""
    keep_zero_advantage: bool = False
    """Whether responses of advantage 0 are candidates, which get the floor; the cost of all
    candidates then counts."""

    objective_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("thinning.", self, {"budget": positive(1), "floor": positive(1)})

    @property
    def keeps_zero_advantage(self) -> bool:
        """Whether every usable response of advantage 0 is kept with a positive probability."""
        return self.keep_zero_advantage

    def scores(self, candidates: Candidates) -> FloatArray:
        """Return [M] what q / sqrt(cost) is to be in proportion to, not negative."""
        raise NotImplementedError

    def probabilities(self, candidates: Candidates) -> FloatArray:
        """Return [M] keep probabilities; 0 for what is not a candidate."""
        chosen = chosen_of(candidates, self.keep_zero_advantage)
        costs = candidates.costs[chosen]
        spent = self.budget * float(costs.sum())
        if candidates.signal is not None and not self.keep_zero_advantage:
            least = min(self.floor, self.budget)
            counted = _counted(candidates.advantages[chosen], candidates.signal[chosen])
            spent = float(costs @ (least + (self.budget - least) * counted))
        q = np.zeros(len(chosen))
        q[chosen] = waterfill(self.scores(candidates)[chosen], costs, spent, self.floor)
        return q

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Keep by systematic sampling with water-filled probabilities."""
        return sampled(candidates.costs, self.probabilities(candidates), self.floor, rng)


@dataclass(frozen=True, slots=True)
class AdvantageOnly(Budgeted):
    """Spend a share of the cost with q ~ |advantage|, whatever a response costs: a baseline.

    q = clip(s |A|, floor, 1) with s such that the expected cost is the budget. Neither the proxy
    nor the cost decides which response is kept; what the cost adds is the gap to `CostAware`.
    """

    def scores(self, candidates: Candidates) -> FloatArray:
        """Return [M]: water-filling divides by the root of the cost, which this takes back."""
        scores: FloatArray = np.abs(candidates.advantages) * np.sqrt(candidates.costs)
        return scores


@dataclass(frozen=True, slots=True)
class CostAware(Budgeted):
    """Spend a share of the cost where it buys most: q ~ score / sqrt(cost) under a budget.

    A response of advantage exactly 0 is left out (q = 0): its gradient is exactly zero, unless the
    loss has a KL or entropy term. Then set `keep_zero_advantage`.

    Half the tokens added 8-14% to the second moment with the surprise proxy, 27-74% with the
    paper's (measured). The default floor is what was measured with: a response this unlikely has a
    score 50 times below the cap, so that even its weighted gradient is ordinary. Raise it where the
    proxy calibrates badly; weights are at most 1 / floor of the ticket's.
    """

    def scores(self, candidates: Candidates) -> FloatArray:
        """Return [M] the guesses of the proxy."""
        return candidates.scores


def systematic_sample(probabilities: FloatArray, rng: np.random.Generator) -> BoolArray:
    """Keep each item with its probability, and about the expected number of items.

    Items are taken in random order with one uniform start (cost/draws/draws.py): the inclusion
    probabilities are those of independent draws, while the count is within 1 of its mean and the
    realised cost varies less.

    Args:
        probabilities: [M] float64 in [0, 1]; an item of 1 is always kept, one of 0 never.
        rng: The stream that gives the order and the start.

    Returns:
        [M] bool.
    """
    keep = probabilities >= 1
    uncertain = np.flatnonzero((probabilities > 0) & ~keep)
    order = rng.permutation(uncertain)
    keep[order] = systematic_counts(probabilities[order], rng.random()) > 0
    return keep


def chosen_of(candidates: Candidates, keep_zero_advantage: bool) -> BoolArray:
    """Return [M] True for what is usable and has an advantage, or may have a gradient without."""
    nonzero: BoolArray = candidates.advantages != 0
    return candidates.usable if keep_zero_advantage else candidates.usable & nonzero


def _counted(advantages: FloatArray, signal: BoolArray) -> FloatArray:
    """Return [M] in [0, 1], how far each candidate's cost counts in a budget.

    1 for advantages of rewards. Those of penalties alone count by their size against the mean
    |advantage| of the former, and fully where there is none to compare with.
    """
    size = np.abs(advantages)
    if not signal.any():
        return np.ones(len(size))
    return np.where(signal, 1.0, np.minimum(size / size[signal].mean(), 1.0))


def sampled(costs: FloatArray, q: FloatArray, floor: float, rng: np.random.Generator) -> Thinning:
    """Keep by systematic sampling with [M] probabilities, and say how that went."""
    keep = systematic_sample(q, rng)
    chosen = q > 0
    target = float((costs * q).sum())
    count = max(int(chosen.sum()), 1)
    metrics = {
        "cost/thinning_target_cost": target,
        "cost/thinning_realised_share": float(costs[keep].sum()) / target if target else 1.0,
        "cost/thinning_capped_share": float((q >= 1).sum()) / count,
        "cost/thinning_floored_share": float((q[chosen] <= floor).sum()) / count,
    }
    return Thinning(keep, q, metrics)
