"""One batch measured: every response's gradient, and how far the biased rules are off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray
from launch.study.variance.pulls import Pulls, PullSums
from launch.study.variance.rules import Biased, Responses, biased_rules, second_moment

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, TokenScores

Key = tuple[str, str, float]
"""Aggregation, rule and budget."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What was sampled: P prompts with n responses each, M = P n."""

    prompts: Sequence[Any]
    """P arrays [T_prompt] of token ids."""
    sampled: Sequence[Sequence[IntArray]]
    """P lists of n arrays [T] of token ids."""
    scores: Sequence[TokenScores]
    """M, group after group."""

    @property
    def group_size(self) -> int:
        """Return n."""
        return len(self.scores) // len(self.prompts)

    def pairs(self) -> Iterator[tuple[Any, IntArray]]:
        """Yield every response with its prompt, group after group."""
        for prompt, group in zip(self.prompts, self.sampled, strict=True):
            for response in group:
                yield prompt, response


@dataclass(frozen=True, slots=True)
class Bias:
    """How far a rule's gradient of one batch is from the full one."""

    squared: float
    """Squared distance."""
    squared_scaled: float
    """The least squared distance that a common factor leaves."""
    second_moment: float
    """Of the full batch; what the distances are compared with."""
    cosine: float
    """Between the two gradients; NaN if one is 0."""
    token_share: float
    """Tokens of the selected responses over those of all with an advantage."""

    @classmethod
    def of(cls, estimate: Any, full: Any, second_moment: float, token_share: float) -> Bias:
        """Compare two gradients, torch tensors [num_parameters]."""
        estimate, full = estimate.double(), full.double()
        norm, full_norm = float(estimate.norm()), float(full.norm())
        product = float((estimate * full).sum())
        cosine = product / (norm * full_norm) if norm * full_norm else math.nan
        left = full_norm**2 * (1 - cosine**2) if norm * full_norm else full_norm**2
        squared = float((estimate - full).square().sum())
        return cls(squared, max(left, 0.0), second_moment, cosine, token_share)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch says."""

    responses: Responses
    score_norms: FloatArray
    """[M] norms of the gradients of the responses' summed log-probabilities, by all weights or by
    the output head's; 0 where no rule looks at a response."""
    biased: dict[Key, Bias]
    """How far off each rule is that undoes no probability."""
    pulls: Pulls | None
    """How far responses and prompts pull the same way; None without gradients by all weights."""
    head_norms: FloatArray | None = None
    """[M] norms by the output head's weights, beside those by all; None where nobody asked."""


def measure_batch(
    policy: ProbePolicy,
    batch: Batch,
    responses: Responses,
    *,
    aggregations: Sequence[str],
    budgets: Sequence[float],
    biased: bool,
    seed: int,
    say: Callable[[int], None] = lambda count: None,
) -> BatchResult:
    """Take every response's gradient and apply every rule.

    Args:
        policy: The model.
        batch: What was sampled.
        responses: What the rules see of it.
        aggregations: Members of `conf.studies.AGGREGATIONS`.
        budgets: Shares of tokens, in (0, 1].
        biased: Whether to measure PODS and D3S, which holds one more gradient for each of them,
            aggregation and budget.
        seed: For their ties.
        say: Called with how many responses are done.
    """
    plans: dict[Key, Biased] = {}
    if biased:
        entropies = [score.entropies for score in batch.scores]
        for aggregation, budget in itertools.product(aggregations, budgets):
            rules = biased_rules(responses, aggregation, budget, batch.group_size, entropies, seed)
            plans |= {(aggregation, rule, budget): plan for rule, plan in rules.items()}
    full = {aggregation: policy.zeros() for aggregation in aggregations if biased}
    estimates = {key: policy.zeros() for key in plans}
    score_norms = np.zeros(len(responses.lengths))
    pulls = PullSums(responses, batch.group_size, policy.zeros())
    for j, (prompt, response) in enumerate(batch.pairs()):
        say(j)
        needed = responses.with_gradient[j] or any(p.coefficients[j] for p in plans.values())
        if not needed:
            continue
        gradient = policy.gradient(prompt, response)
        score_norms[j] = float(gradient.double().norm())
        pulls.add(j, gradient)
        for aggregation, total in full.items():
            factor = responses.advantages[j] * responses.factors(aggregation)[j]
            total.add_(gradient, alpha=float(factor))
        _add(estimates, plans, j, gradient, partial(policy.gradient, prompt, response))
    biases = _biases(estimates, full, plans, score_norms, responses)
    return BatchResult(responses, score_norms, biases, pulls.pulls())


def measure_heads(
    policy: ProbePolicy,
    batch: Batch,
    responses: Responses,
    say: Callable[[int], None] = lambda count: None,
) -> FloatArray:
    """Return the norms [M] of the responses' gradients by the output head; 0 without advantage."""
    norms = np.zeros(len(responses.lengths))
    for j, (prompt, response) in enumerate(batch.pairs()):
        say(j)
        if responses.with_gradient[j]:
            norms[j] = policy.head_norm(prompt, response)
    return norms


def _add(
    estimates: Mapping[Key, Any],
    plans: Mapping[Key, Biased],
    j: int,
    gradient: Any,
    gradient_of_tokens: Callable[[BoolArray], Any],
) -> None:
    """Add response j's part to every biased estimate."""
    by_tokens: dict[bytes, Any] = {}
    for key, plan in plans.items():
        if plan.coefficients[j] == 0:
            continue
        part = gradient
        if plan.token_factors is not None:
            token_factors = plan.token_factors[j]
            if not token_factors.any():
                continue
            # Aggregations keep the same tokens, with another factor.
            scale, pattern = token_factors.max(), token_factors > 0
            if pattern.tobytes() not in by_tokens:
                by_tokens[pattern.tobytes()] = gradient_of_tokens(pattern)
            part = by_tokens[pattern.tobytes()] * float(scale)
        estimates[key].add_(part, alpha=float(plan.coefficients[j]))


def _biases(
    estimates: Mapping[Key, Any],
    full: Mapping[str, Any],
    plans: Mapping[Key, Biased],
    score_norms: FloatArray,
    responses: Responses,
) -> dict[Key, Bias]:
    tokens = float(responses.lengths[responses.with_gradient].sum())
    biases = {}
    for key, plan in plans.items():
        aggregation, _, _ = key
        used = float(responses.lengths[plan.coefficients != 0].sum())
        biases[key] = Bias.of(
            estimates[key],
            full[aggregation],
            second_moment=second_moment(responses, aggregation, score_norms),
            token_share=used / tokens if tokens else math.nan,
        )
    return biases
