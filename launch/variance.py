"""What each thinning rule adds to the variance, exactly: `python -m launch.variance MODEL TASK`.

Samples batches of groups from a model, scores them with the task's reward and takes the gradient of
every response over all parameters. With G_i the norm of response i's part of the batch's gradient
and q_i its probability to be kept independently of the others, thinning adds

    sum_i G_i^2 (1 / q_i - 1)    reported over    sum_i G_i^2,

sums over the usable responses whose advantage is not 0. Budgets are shares of their tokens. The
oracle knows G and is what no proxy can beat. Systematic sampling, which training uses, has the same
q and by negative correlation usually less variance.

PODS and D3S undo no probability: given the batch they add bias, not variance. For them the squared
distance of the batch's gradient from the full one is reported over the same sum: as it is, and
after the best common factor, which a learning rate could make up for. The variance of the rules
above averages out over batches; a bias stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from cost.advantages import GroupStandardised
from cost.proxies import AdvantageProxy, SurpriseProxy
from cost.thinning import AdvantageOnly, Candidates, CostAware, D3s, Pods, Thinning
from cost.types import BoolArray, FloatArray, IntArray
from launch.compose import UserError, build, run_program
from launch.inputs import load_prompts, load_tokenizer, resolve_model
from launch.summary import write_json
from launch.text import number_text

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, TokenScores

FLOOR = 0.02
TOKEN_SHARE = 0.5
"""What "D3S + tokens" keeps of the tokens of its responses; plain "D3S" keeps all."""
AGGREGATIONS = {"constant_length": "token sums", "sequence_mean": "sequence means"}
REWARDS: dict[str, tuple[str, ...]] = {
    "chain": ("+reward=chain",),
    "reasoning_gym_arithmetic": ("+reward=reasoning_gym", "reward.extract=last_number"),
    "reasoning_gym": ("+reward=reasoning_gym",),
    "jsonl": ("+reward=math",),
}
"""The reward of every task whose name begins so; the first that fits."""
ORACLE = "oracle"


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

    def factors(self, aggregation: str) -> FloatArray:
        """Aggregation factor of each response, up to a common one: [M]."""
        if aggregation == "sequence_mean":
            return 1.0 / np.maximum(self.lengths, 1)
        return np.ones(len(self.lengths))

    def candidates(self, scores: FloatArray) -> Candidates:
        """What a thinning sees of the batch; a response costs its tokens."""
        return Candidates(
            scores=scores,
            costs=np.maximum(self.lengths, 1).astype(np.float64),
            advantages=self.advantages,
            rewards=self.rewards,
            usable=self.usable,
            groups=self.groups,
        )


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


def keep_probabilities(
    responses: Responses,
    aggregation: str,
    budget: float,
    score_norms: FloatArray,
    fitted: SurpriseProxy | None = None,
) -> dict[str, FloatArray]:
    """Return every unbiased rule's keep probabilities.

    Args:
        responses: A batch.
        aggregation: Key of `AGGREGATIONS`.
        budget: Share of the candidates' tokens to spend, in (0, 1].
        score_norms: [M] norms of the gradients of the responses' summed log-probabilities.
        fitted: The surprise proxy with exponents fitted to other batches; None leaves it out.

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
        "uniform": np.where(_with_gradient(responses), budget, 0.0),
        "|A|": by_advantage.probabilities(responses.candidates(np.ones(len(factors)))),
        "|A|/sqrt(L) (paper)": cost_aware(AdvantageProxy().score(*arguments)),
        "|A|/L": cost_aware(AdvantageProxy(length_exponent=-0.5).score(*arguments)),
        "surprise": cost_aware(SurpriseProxy().score(*arguments)),
    }
    if fitted is not None:
        rules["surprise, fitted"] = cost_aware(fitted.score(*arguments))
    rules[ORACLE] = cost_aware(np.abs(responses.advantages) * factors * score_norms)
    return rules


def added_variance(
    responses: Responses, aggregation: str, q: FloatArray, score_norms: FloatArray
) -> float:
    """Variance that independent keeping with probabilities q [M] adds, up to a common factor."""
    squares = _squared_norms(responses, aggregation, score_norms)
    chosen = _with_gradient(responses)
    return float((squares[chosen] * (1 / q[chosen] - 1)).sum())


def second_moment(responses: Responses, aggregation: str, score_norms: FloatArray) -> float:
    """Sum of the squared norms of the responses' parts of the gradient, up to the same factor."""
    return float(_squared_norms(responses, aggregation, score_norms).sum())


def _squared_norms(responses: Responses, aggregation: str, score_norms: FloatArray) -> FloatArray:
    squares: FloatArray = (responses.advantages * responses.factors(aggregation) * score_norms) ** 2
    return squares


def _with_gradient(responses: Responses) -> BoolArray:
    nonzero: BoolArray = responses.advantages != 0
    return responses.usable & nonzero


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
    """D3S's token level as the learner has it, with the whole batch as one optimiser step."""
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

    chosen = _with_gradient(responses)
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
        _with_gradient(result.responses)
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


async def score_rewards(
    reward: Any, items: Sequence[tuple[str, str, str]]
) -> tuple[FloatArray, BoolArray]:
    """Return rewards [M], NaN where scoring failed, and whether they are usable [M]."""
    from rollout.rewards.pool import RewardPool

    pool = RewardPool(reward)
    try:
        await pool.start()
        scored = await pool.score(items)
    finally:
        pool.close()
    rewards = np.array([math.nan if s.score is None else s.score.reward for s in scored])
    return rewards, np.isfinite(rewards)


def group_responses(
    rewards: FloatArray,
    usable: BoolArray,
    group_size: int,
    scores: Sequence[TokenScores],
) -> Responses:
    """Put a batch together; advantages are standardised within groups."""
    advantage = GroupStandardised()
    advantages = [
        advantage.advantages(
            rewards[start : start + group_size], usable[start : start + group_size]
        )
        for start in range(0, len(rewards), group_size)
    ]
    return Responses(
        advantages=np.concatenate(advantages),
        rewards=rewards,
        usable=usable,
        groups=np.repeat(np.arange(len(advantages)), group_size),
        lengths=np.array([len(score.logprobs) for score in scores], dtype=np.int64),
        surprise=np.array([float(((1 - np.exp(s.logprobs)) ** 2).sum()) for s in scores]),
    )


def compose_task(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the task of conf/task/NAME.yaml and its reward.

    Raises:
        UserError: If no reward is known for the task, or hydra refuses.
    """
    from hydra.errors import HydraException

    rewards = next((REWARDS[key] for key in REWARDS if name.startswith(key)), ())
    if any(override.lstrip("+").startswith("reward=") for override in overrides):
        rewards = ()
    elif not rewards:
        raise UserError(f"task: no reward is known for it, add +reward=NAME, got {name!r}")
    with initialize_config_module("conf", version_base="1.3"):
        try:
            # Rewards of generated tasks take the name of the generator from the held-out task.
            return compose(
                overrides=[f"+task={name}", f"+task@held_out={name}", *rewards, *overrides]
            )
        except HydraException as error:
            raise UserError(" ".join(str(error).split())) from error


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole measurement that the command line describes."""
    model_path = resolve_model(arguments.model)
    composed = compose_task(arguments.task, arguments.overrides)
    task, reward = build(composed.task), build(composed.reward)
    tokenizer = load_tokenizer(model_path)
    settings = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    room = settings.get("max_position_embeddings", arguments.max_tokens + 4096)
    prompts = load_prompts(task, tokenizer, reward, room - arguments.max_tokens)
    if len(prompts) < arguments.prompts:
        raise UserError(
            f"--prompts must not exceed the {len(prompts)} prompts of the task, "
            f"got {arguments.prompts}"
        )
    from learner.probe_policy import ProbePolicy

    policy = ProbePolicy(
        model_path, temperature=arguments.temperature, stop_token_ids=[tokenizer.eos_token_id]
    )
    results, num_responses, num_usable, tokens = [], 0, 0, 0
    pass_rates = []
    for batch in range(arguments.batches):
        rng = np.random.default_rng([arguments.seed, batch])
        chosen = [prompts[i] for i in rng.choice(len(prompts), arguments.prompts, replace=False)]
        token_ids = [prompt.token_ids for prompt in chosen]
        seed = int(rng.integers(2**31))
        sampled = policy.sample(
            token_ids,
            num_samples=arguments.group_size,
            max_tokens=arguments.max_tokens,
            seed=seed,
        )
        items = [
            (prompt.text, tokenizer.decode(response, skip_special_tokens=True), prompt.answer)
            for prompt, group in zip(chosen, sampled, strict=True)
            for response in group
        ]
        rewards, usable = asyncio.run(score_rewards(reward, items))
        scores = [
            policy.token_scores(prompt, response)
            for prompt, group in zip(token_ids, sampled, strict=True)
            for response in group
        ]
        responses = group_responses(rewards, usable, arguments.group_size, scores)
        results.append(
            measure_batch(
                policy,
                token_ids,
                sampled,
                scores,
                responses,
                aggregations=arguments.aggregation,
                budgets=arguments.budgets,
                biased=not arguments.unbiased_only,
                seed=seed,
            )
        )
        num_responses += len(rewards)
        num_usable += int(usable.sum())
        tokens += int(responses.lengths.sum())
        pass_rates.append(float(np.mean(rewards[usable] >= 1)) if usable.any() else math.nan)
        print(f"batch {batch + 1} of {arguments.batches}", flush=True)
    num_with_advantage = sum(int(_with_gradient(r.responses).sum()) for r in results)
    if num_with_advantage == 0:
        raise UserError(
            "task: no group of the batches has different rewards, so there is no gradient to "
            f"measure; take another task, model or more prompts, got {arguments.task!r}"
        )
    return {
        "model": arguments.model,
        "task": arguments.task,
        "parameters": policy.num_parameters,
        "batches": arguments.batches,
        "responses": num_responses,
        "usable_responses": num_usable,
        "responses_with_advantage": num_with_advantage,
        "mean_length_tokens": tokens / num_responses,
        "pass_rate": float(np.mean(pass_rates)),
        "temperature": arguments.temperature,
        "floor": FLOOR,
    } | summarise(results, arguments.aggregation, arguments.budgets)


def print_tables(report: Mapping[str, Any]) -> None:
    """Print one table for the unbiased rules and one for the biased."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report['model']} on {report['task']}: {report['responses']} responses, "
        f"{report['responses_with_advantage']} with an advantage, mean length "
        f"{report['mean_length_tokens']:.0f} tokens, pass rate {report['pass_rate']:.2f}"
    )
    for name, fit in report["norm_fit"].items():
        console.print(
            f"|g| of the summed log-probability ~ {name}^{fit['exponent']:.2f}, "
            f"r {fit['correlation']:.2f}, residual deviation {fit['residual_deviation']:.2f}"
        )
    if report["fitted_exponents"]:
        exponents = report["fitted_exponents"]
        console.print(
            f"|g| ~ surprise^{exponents['surprise']:.2f} length^{exponents['length']:.2f} together;"
            " each batch is judged with exponents fitted to the others"
        )
    first = next(iter(report["added_variance"].values()))
    budgets = list(next(iter(first.values())))
    console.print()
    console.print("Added variance over the full batch's second moment, by budget")
    added = Table()
    added.add_column("rule for q", no_wrap=True)
    for aggregation in report["added_variance"]:
        added.add_column(f"{AGGREGATIONS[aggregation]}\n{' / '.join(budgets)}", no_wrap=True)
    for rule in first:
        added.add_row(
            rule,
            *(
                _figures(rules[rule][budget]["added_variance"] for budget in budgets)
                for rules in report["added_variance"].values()
            ),
        )
    console.print(added)
    if not report["biased"]:
        return
    console.print()
    console.print("Biased by design: over the same second moment, at the same budgets")
    biased = Table()
    for name in ("rule", "", *(AGGREGATIONS[aggregation] for aggregation in report["biased"])):
        biased.add_column(name, no_wrap=True)
    for rule in next(iter(report["biased"].values())):
        for row, (key, name) in enumerate(BIAS_ROWS.items()):
            biased.add_row(
                "" if row else rule,
                name,
                *(
                    _figures(rules[rule][budget][key] for budget in budgets)
                    for rules in report["biased"].values()
                ),
                end_section=row == len(BIAS_ROWS) - 1,
            )
    console.print(biased)


BIAS_ROWS = {
    "squared_bias": "squared bias",
    "squared_bias_scaled": "best scale",
    "token_share": "tokens",
}


def _figures(values: Iterable[float]) -> str:
    return " / ".join(number_text(value, 2) for value in values)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _group_size(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {text}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m launch.variance", description="Exact added variance of every thinning rule."
    )
    result.add_argument("model", nargs="?", default="rollout/tasks/chain_model")
    result.add_argument("task", nargs="?", default="chain", help="a name in conf/task")
    result.add_argument("overrides", nargs="*", help="such as task.path=data.jsonl +reward=math")
    result.add_argument(
        "--aggregation", nargs="+", choices=list(AGGREGATIONS), default=list(AGGREGATIONS)
    )
    result.add_argument("--budgets", nargs="+", type=_share, default=[0.3, 0.5, 0.7])
    result.add_argument("--batches", type=_count, default=6)
    result.add_argument("--prompts", type=_count, default=16, help="groups in a batch")
    result.add_argument("--group-size", type=_group_size, default=8)
    result.add_argument("--max-tokens", type=_count, default=256)
    result.add_argument("--temperature", type=_positive, default=1.0)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--json", type=Path, help="also write the figures here")
    result.add_argument(
        "--unbiased-only", action="store_true", help="leave PODS and D3S out, to save memory"
    )
    return result


def main() -> None:
    """Measure, print, write."""
    arguments = parser().parse_intermixed_args()
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"--json must be a file in a folder that exists, got {arguments.json}")
    report = measure(arguments)
    print_tables(report)
    if arguments.json is not None:
        write_json(arguments.json, report)


if __name__ == "__main__":
    run_program(main)
