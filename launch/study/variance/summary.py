"""What batches say together: added variance and bias over the second moment, and fitted norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost.thinning.proxies import SurpriseProxy
from cost.types import FloatArray
from launch.study.variance.measurement import BatchResult
from launch.study.variance.rules import added_variance, keep_probabilities, second_moment


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


def summarise(
    results: Sequence[BatchResult],
    aggregations: Sequence[str],
    budgets: Sequence[float],
    group_size: int,
) -> dict[str, Any]:
    """Apply every rule to the batches, and add up into what is printed and written as JSON."""
    fit = fitted_proxy(results)
    return {
        "added_variance": {
            aggregation: _added(results, aggregation, budgets) for aggregation in aggregations
        },
        "biased": _biased(results),
        "norm_fit": norm_fit(results),
        "head_fit": head_fit(results),
        "pulls": pulls_of(results, group_size),
        "fitted_exponents": None
        if fit is None
        else {"surprise": fit.surprise_exponent, "length": fit.length_exponent},
    }


def _added(
    results: Sequence[BatchResult], aggregation: str, budgets: Sequence[float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the added variance over the second moment, by rule and budget."""
    # What a calibration could know: exponents fitted to the other batches.
    proxies = [
        fitted_proxy([*results[:index], *results[index + 1 :]]) for index in range(len(results))
    ]
    if any(proxy is None for proxy in proxies):
        proxies = [None] * len(results)
    moments = [second_moment(r.responses, aggregation, r.score_norms) for r in results]
    added: dict[str, dict[str, dict[str, float]]] = {}
    for budget in budgets:
        above: dict[str, list[float]] = {}
        for result, proxy in zip(results, proxies, strict=True):
            rules = keep_probabilities(
                result.responses, aggregation, budget, result.score_norms, proxy, result.head_norms
            )
            for rule, q in rules.items():
                above.setdefault(rule, []).append(
                    added_variance(result.responses, aggregation, q, result.score_norms)
                )
        for rule, values in above.items():
            ratio = Ratio.of(values, moments)
            added.setdefault(rule, {})[f"{budget:g}"] = {
                "added_variance": ratio.value,
                "standard_error": ratio.standard_error,
            }
    return added


def _biased(results: Sequence[BatchResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures of biased rules, by aggregation, rule and budget."""
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
    return biased


def pulls_of(results: Sequence[BatchResult], group_size: int) -> dict[str, float] | None:
    """Return alignment and noise scale, in groups of the measured size; see cost.draws.sizing.

    None where they were not measured.
    """
    pulls = [result.pulls for result in results if result.pulls is not None]
    if not pulls:
        return None
    alignment = Ratio.of([p.within for p in pulls], [p.own for p in pulls])
    noise = [p.within + p.own / (group_size - 1) for p in pulls]
    scale = Ratio.of(noise, [p.across for p in pulls])
    return {
        "alignment": alignment.value,
        "alignment_standard_error": alignment.standard_error,
        "noise_scale": scale.value,
        "noise_scale_standard_error": scale.standard_error,
    }


def head_fit(results: Sequence[BatchResult]) -> dict[str, float] | None:
    """Hold norms by the output head against those by all weights, in logarithms and in ranks.

    None where only one of them was measured, or of fewer than three responses.
    """
    pairs = [
        np.stack([result.head_norms, result.score_norms])[:, result.responses.with_gradient]
        for result in results
        if result.head_norms is not None
    ]
    both = np.concatenate([np.zeros((2, 0)), *pairs], axis=1)
    both = both[:, (both > 0).all(axis=0)]
    if both.shape[1] < 3:
        return None
    ranks = both.argsort(axis=1).argsort(axis=1)
    return {
        "correlation": float(np.corrcoef(np.log(both))[0, 1]),
        "rank_correlation": float(np.corrcoef(ranks)[0, 1]),
    }


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
    """Take logarithms of lengths, surprise and norms of the responses with a gradient."""
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
