"""The rules that choose responses, as functions of what one batch shows of them; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cost.advantages.types import GroupBatch
from cost.advantages.within_group import GroupStandardised
from cost.thinning.proxies import AdvantageProxy, SurpriseProxy
from cost.thinning.subsets import D3s, Pods
from cost.thinning.thinning import AdvantageOnly, Candidates, CostAware, Thinning
from cost.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from learner.probe_policy import TokenScores

FLOOR = 0.02
TOKEN_SHARE = 0.5
"""What "D3S + tokens" keeps of the tokens of its responses; plain "D3S" keeps all."""
ORACLE, FITTED = "oracle", "surprise, fitted"


@dataclass(frozen=True, slots=True)
class Responses:
    """All M responses of a batch, group after group."""

    advantages: FloatArray
    """[M] 0 where not usable."""
    rewards: FloatArray
    """[M] NaN where not usable."""
    usable: BoolArray
    """[M]"""
    groups: IntArray
    """[M] position of the response's group in the batch."""
    lengths: IntArray
    """[M] tokens."""
    surprise: FloatArray
    """[M] sum over tokens of (1 - probability)^2."""

    @property
    def with_gradient(self) -> BoolArray:
        """Return [M], True where the reward is usable and the advantage not 0."""
        nonzero: BoolArray = self.advantages != 0
        return self.usable & nonzero

    def factors(self, aggregation: str) -> FloatArray:
        """Return the aggregation factor [M] of each response, up to a common one."""
        if aggregation == "sequence_mean":
            return 1.0 / np.maximum(self.lengths, 1)
        return np.ones(len(self.lengths))

    def candidates(self, scores: FloatArray) -> Candidates:
        """Return what a thinning sees of the batch; a response costs its tokens."""
        return Candidates(
            scores=scores,
            costs=np.maximum(self.lengths, 1).astype(np.float64),
            advantages=self.advantages,
            rewards=self.rewards,
            usable=self.usable,
            groups=self.groups,
        )


def group_responses(
    rewards: FloatArray,
    usable: BoolArray,
    group_size: int,
    scores: Sequence[TokenScores],
) -> Responses:
    """Put a batch together; advantages are standardised within groups."""
    num_groups = len(rewards) // group_size
    batch = GroupBatch(
        rewards=rewards,
        usable=usable,
        lengths=np.array([len(score.logprobs) for score in scores], dtype=np.int64),
        answer_codes=np.zeros(len(rewards), dtype=np.int64),
        sizes=np.full(num_groups, group_size),
        prompt_indices=np.arange(num_groups),
        folded=np.zeros(num_groups, dtype=bool),
        max_tokens=max(len(score.logprobs) for score in scores),
    )
    return Responses(
        advantages=GroupStandardised().advantages(batch),
        rewards=rewards,
        usable=usable,
        groups=batch.groups,
        lengths=batch.lengths,
        surprise=np.array([float(((1 - np.exp(s.logprobs)) ** 2).sum()) for s in scores]),
    )


def keep_probabilities(
    responses: Responses,
    aggregation: str,
    budget: float,
    score_norms: FloatArray,
    fitted: SurpriseProxy | None = None,
    head_norms: FloatArray | None = None,
) -> dict[str, FloatArray]:
    """Return every unbiased rule's keep probabilities.

    Args:
        responses: A batch.
        aggregation: Member of `conf.studies.AGGREGATIONS`.
        budget: Share of the candidates' tokens to spend, in (0, 1].
        score_norms: [M] norms of the gradients of the responses' summed log-probabilities.
        fitted: The surprise proxy with exponents fitted to other batches; None leaves it out.
        head_norms: [M] the same norms by the output head alone; None leaves it out.

    Returns:
        Rule -> [M], 0 for what is not a candidate.
    """
    factors = responses.factors(aggregation)
    arguments = (
        responses.advantages,
        responses.lengths,
        responses.surprise,
        factors,
        np.ones(len(factors)),
    )
    rule = CostAware(budget=budget, floor=FLOOR)

    def cost_aware(scores: FloatArray) -> FloatArray:
        return rule.probabilities(responses.candidates(scores))

    by_advantage = AdvantageOnly(budget=budget, floor=FLOOR)
    rules = {
        "uniform": np.where(responses.with_gradient, budget, 0.0),
        "|A|": by_advantage.probabilities(responses.candidates(np.ones(len(factors)))),
        "|A|/sqrt(L) (paper)": cost_aware(AdvantageProxy().score(*arguments)),
        "|A|/L": cost_aware(AdvantageProxy(length_exponent=-0.5).score(*arguments)),
        "surprise": cost_aware(SurpriseProxy().score(*arguments)),
    }
    if fitted is not None:
        rules[FITTED] = cost_aware(fitted.score(*arguments))
    if head_norms is not None:
        rules["head's norm"] = cost_aware(np.abs(responses.advantages) * factors * head_norms)
    rules[ORACLE] = cost_aware(np.abs(responses.advantages) * factors * score_norms)
    return rules


def added_variance(
    responses: Responses, aggregation: str, q: FloatArray, score_norms: FloatArray
) -> float:
    """Return the variance that independent keeping with q [M] adds, up to a common factor."""
    squares = _squared_norms(responses, aggregation, score_norms)
    chosen = responses.with_gradient
    return float((squares[chosen] * (1 / q[chosen] - 1)).sum())


def second_moment(responses: Responses, aggregation: str, score_norms: FloatArray) -> float:
    """Sum the squared norms of the responses' parts of the gradient, up to the same factor."""
    return float(_squared_norms(responses, aggregation, score_norms).sum())


def _squared_norms(responses: Responses, aggregation: str, score_norms: FloatArray) -> FloatArray:
    squares: FloatArray = (responses.advantages * responses.factors(aggregation) * score_norms) ** 2
    return squares


@dataclass(frozen=True, slots=True)
class Biased:
    """What a rule that undoes no probability trains on, given the batch."""

    coefficients: FloatArray
    """[M] what the responses' gradients are multiplied with."""
    token_factors: list[FloatArray] | None
    """M arrays [T], what their tokens are multiplied with beside that; None for ones."""


def biased_rules(
    responses: Responses,
    aggregation: str,
    budget: float,
    group_size: int,
    entropies: Sequence[FloatArray],
    seed: int,
) -> dict[str, Biased]:
    """Apply PODS and D3S with a share of the responses as near the budget as they can."""
    candidates = responses.candidates(np.zeros(len(responses.usable)))
    factors = responses.factors(aggregation)

    def coefficients(thinning: Thinning) -> FloatArray:
        advantages = responses.advantages if thinning.advantages is None else thinning.advantages
        weights = np.zeros(len(factors))
        np.divide(1.0, thinning.probabilities, out=weights, where=thinning.keep)
        return weights * advantages * factors

    pods = Pods(num_kept=max(round(budget * group_size), 1))
    d3s = D3s(budget, budget, TOKEN_SHARE, TOKEN_SHARE)
    selected = d3s.thin(candidates, np.random.default_rng(seed))
    whole = coefficients(selected)
    return {
        "PODS": Biased(coefficients(pods.thin(candidates, np.random.default_rng(seed))), None),
        "D3S": Biased(whole, None),
        "D3S + tokens": Biased(whole, _token_factors(responses, selected, factors, entropies)),
    }


def _token_factors(
    responses: Responses, thinning: Thinning, factors: FloatArray, entropies: Sequence[FloatArray]
) -> list[FloatArray]:
    """Apply D3S's token level as the learner does, the whole batch being one optimiser step."""
    from learner.probe_policy import top_token_factors

    result = [np.zeros(len(tokens)) for tokens in entropies]
    kept = np.flatnonzero(thinning.keep)
    if len(kept) == 0:
        return result
    scores = np.concatenate([abs(responses.advantages[j]) * entropies[j] for j in kept])
    weights = np.concatenate([np.full(len(entropies[j]), factors[j]) for j in kept])
    flat = top_token_factors(scores, weights, thinning.token_share)
    ends = np.cumsum([len(entropies[j]) for j in kept])
    for j, part in zip(kept, np.split(flat, ends[:-1]), strict=True):
        result[j] = part
    return result
