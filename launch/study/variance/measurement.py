"""One batch measured, and what batches say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cost.thinning.proxies import SurpriseProxy
from cost.types import FloatArray, IntArray
from launch.study.variance.rules import (
    Biased,
    Responses,
    added_variance,
    biased_rules,
    keep_probabilities,
    second_moment,
)

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, TokenScores


@dataclass(frozen=True, slots=True)
class Ratio:
    """A sum over a sum, both over batches."""

    value: float
    standard_error: float
    """Over batches, by the jackknife; NaN for one batch."""

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """Divide the sums; NaN over 0."""
        a, b = np.array(above), np.array(below)
        if not b.sum() > 0:
            return cls(math.nan, math.nan)
        value = float(a.sum() / b.sum())
        rest = b.sum() - b
        if len(a) < 2 or not (rest > 0).all():
            return cls(value, math.nan)
        without = (a.sum() - a) / rest
        error = math.sqrt((len(a) - 1) * float(np.mean((without - without.mean()) ** 2)))
        return cls(value, error)


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
    """[M] norms of the gradients of the responses' summed log-probabilities; 0 where no rule looks
    at a response."""
    biased: dict[tuple[str, str, float], Bias]
    """(aggregation, rule, budget) -> how far off a rule is that undoes no probability."""


def measure_batch(
    policy: ProbePolicy,
    prompts: Sequence[Any],
    sampled: Sequence[Sequence[IntArray]],
    scores: Sequence[TokenScores],
    responses: Responses,
    *,
    aggregations: Sequence[str],
    budgets: Sequence[float],
    biased: bool,
    seed: int,
) -> BatchResult:
    """Take every response's gradient and apply every rule.

    Args:
        policy: The model.
        prompts: P arrays [T_prompt].
        sampled: P lists of n arrays [T].
        scores: P * n, in the same order.
        responses: What the rules see of them.
        aggregations: Keys of `AGGREGATIONS`.
        budgets: Shares of tokens, in (0, 1].
        biased: Whether to measure PODS and D3S, which holds one more gradient for each of them,
            aggregation and budget.
        seed: For their ties.
    """
    flat = [
        (prompt, response)
        for prompt, group in zip(prompts, sampled, strict=True)
        for response in group
    ]
    group_size = len(flat) // len(prompts)
    plans: dict[tuple[str, str, float], Biased] = {}
    if biased:
        entropies = [score.entropies for score in scores]
        for aggregation in aggregations:
            for budget in budgets:
                rules = biased_rules(responses, aggregation, budget, group_size, entropies, seed)
                plans |= {(aggregation, rule, budget): plan for rule, plan in rules.items()}
    full = {aggregation: policy.zeros() for aggregation in aggregations if biased}
    estimates = {key: policy.zeros() for key in plans}

    chosen = responses.with_gradient
    score_norms = np.zeros(len(flat))
    for j, (prompt, response) in enumerate(flat):
        if not chosen[j] and not any(plan.coefficients[j] for plan in plans.values()):
            continue
        gradient = policy.gradient(prompt, response)
        score_norms[j] = float(gradient.double().norm())
        for aggregation, total in full.items():
            total.add_(
                gradient,
                alpha=float(responses.advantages[j] * responses.factors(aggregation)[j]),
            )
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
                    by_tokens[pattern.tobytes()] = policy.gradient(prompt, response, pattern)
                part = by_tokens[pattern.tobytes()] * float(scale)
            estimates[key].add_(part, alpha=float(plan.coefficients[j]))

    tokens = float(responses.lengths[chosen].sum())
    biases = {}
    for key, plan in plans.items():
        aggregation, _, budget = key
        used = float(responses.lengths[plan.coefficients != 0].sum())
        biases[key] = Bias.of(
            estimates[key],
            full[aggregation],
            second_moment=second_moment(responses, aggregation, score_norms),
            token_share=used / tokens if tokens else math.nan,
        )
    return BatchResult(responses, score_norms, biases)


def norm_fit(results: Sequence[BatchResult]) -> dict[str, dict[str, float]]:
    """Regress log |g| of the summed log-probability on log L, and on log S."""
    lengths, surprise, norms = _log_norms(results)
    fits = {}
    for name, x in (("length", lengths), ("surprise", surprise)):
        if len(x) < 3 or np.ptp(x) == 0 or np.ptp(norms) == 0:
            continue
        exponent, offset = np.polyfit(x, norms, 1)
        fits[name] = {
            "exponent": float(exponent),
            "correlation": float(np.corrcoef(x, norms)[0, 1]),
            "residual_deviation": float(np.std(norms - exponent * x - offset)),
        }
    return fits


def fitted_proxy(results: Sequence[BatchResult]) -> SurpriseProxy | None:
    """Regress log |g| on log S and log L together; None where there is too little to fit."""
    lengths, surprise, norms = _log_norms(results)
    features = np.stack([surprise, lengths, np.ones(len(norms))], axis=1)
    if len(features) == 0 or np.linalg.matrix_rank(features) < features.shape[1]:
        return None
    surprise_exponent, length_exponent, _ = np.linalg.lstsq(features, norms, rcond=None)[0]
    return SurpriseProxy(
        surprise_exponent=max(float(surprise_exponent), 0.0), length_exponent=float(length_exponent)
    )


def _log_norms(results: Sequence[BatchResult]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Logarithms of lengths, surprise and norms, of the responses with a gradient."""
    kept = [
        result.responses.with_gradient
        & (result.score_norms > 0)
        & (result.responses.surprise > 0)
        & (result.responses.lengths > 0)
        for result in results
    ]

    def logs(values: Iterable[npt.NDArray[Any]]) -> FloatArray:
        parts = [part[mask] for part, mask in zip(values, kept, strict=True)]
        logarithms: FloatArray = np.log(np.concatenate([np.zeros(0), *parts]))
        return logarithms

    return (
        logs(result.responses.lengths for result in results),
        logs(result.responses.surprise for result in results),
        logs(result.score_norms for result in results),
    )


def summarise(
    results: Sequence[BatchResult], aggregations: Sequence[str], budgets: Sequence[float]
) -> dict[str, Any]:
    """Apply every rule to the batches, and add up into what is printed and written as JSON."""
    # What a calibration could know: exponents fitted to the other batches.
    proxies = [
        fitted_proxy([*results[:index], *results[index + 1 :]]) for index in range(len(results))
    ]
    if any(proxy is None for proxy in proxies):
        proxies = [None] * len(results)
    added: dict[str, dict[str, dict[str, Any]]] = {}
    for aggregation in aggregations:
        moments = [second_moment(r.responses, aggregation, r.score_norms) for r in results]
        for budget in budgets:
            above: dict[str, list[float]] = {}
            for result, proxy in zip(results, proxies, strict=True):
                rules = keep_probabilities(
                    result.responses, aggregation, budget, result.score_norms, proxy
                )
                for rule, q in rules.items():
                    above.setdefault(rule, []).append(
                        added_variance(result.responses, aggregation, q, result.score_norms)
                    )
            for rule, values in above.items():
                ratio = Ratio.of(values, moments)
                added.setdefault(aggregation, {}).setdefault(rule, {})[f"{budget:g}"] = {
                    "added_variance": ratio.value,
                    "standard_error": ratio.standard_error,
                }
    biased: dict[str, dict[str, dict[str, Any]]] = {}
    for key in results[0].biased:
        biases = [result.biased[key] for result in results]
        moments = [bias.second_moment for bias in biases]
        squared = Ratio.of([bias.squared for bias in biases], moments)
        scaled = Ratio.of([bias.squared_scaled for bias in biases], moments)
        aggregation, rule, budget = key
        biased.setdefault(aggregation, {}).setdefault(rule, {})[f"{budget:g}"] = {
            "squared_bias": squared.value,
            "standard_error": squared.standard_error,
            "squared_bias_scaled": scaled.value,
            "cosine": float(np.mean([bias.cosine for bias in biases])),
            "token_share": float(np.mean([bias.token_share for bias in biases])),
        }
    fit = fitted_proxy(results)
    return {
        "added_variance": added,
        "biased": biased,
        "norm_fit": norm_fit(results),
        "fitted_exponents": None
        if fit is None
        else {"surprise": fit.surprise_exponent, "length": fit.length_exponent},
    }
