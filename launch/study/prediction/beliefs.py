"""What the scheduler's plugs believe after visits, and what everything is judged by; no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.prediction import NUM_VISITS, PredictConfig
from cost.prompts import PromptPool, Visit
from cost.state import initial_state, keywords, updated
from cost.types import BoolArray, FloatArray, IntArray, LengthReport
from cost.worth.pass_rates import PassRates
from cost.worth.utilities import PosteriorMoment
from launch.study.prediction.collection import Collected, standardised

PASS_RATES = PassRates(decay=0.9, prior_responses=8.0)
"""As a run has them by default."""
DRAWS_OF_GROUPS = 16
"""Groups per prompt that a second moment is the mean of."""


@dataclass(frozen=True, slots=True)
class Split:
    """The responses of each prompt, dealt out: some to visits, the others to judge by."""

    visits: IntArray
    """[2 n] columns of the responses of the two visits, one after the other."""
    judging: IntArray
    """[k n] columns of the others."""
    visited_first: BoolArray
    """[N] the half of the prompts that is visited where the other half is judged unvisited."""
    order: IntArray
    """[N] in which prompts are visited."""


def splits(config: PredictConfig, data: Collected) -> list[Split]:
    """Deal the responses out `config.splits` times."""
    found, size = [], config.group_size * NUM_VISITS
    for number in range(config.splits):
        rng = np.random.default_rng([config.seed, 1, number])
        columns, order = rng.permutation(config.num_responses), rng.permutation(data.num_prompts)
        first = np.zeros(data.num_prompts, dtype=bool)
        first[order[: data.num_prompts // 2]] = True
        found.append(Split(columns[:size], columns[size:], first, rng.permutation(order)))
    return found


@dataclass(frozen=True, slots=True)
class Truth:
    """What the judging responses say of N prompts; without bias, but with noise."""

    costs: FloatArray
    """[N] mean cost of a response."""
    pass_rates: FloatArray
    """[N]"""
    pass_rate_noise: float
    """Mean squared error of `pass_rates`."""
    mixed: FloatArray
    """[N] chance of a group with advantages."""
    moments: dict[str, FloatArray]
    """By metric, [N] V: mean squared norm of a group's gradient."""
    squared_means: dict[str, FloatArray]
    """By metric, [N] B: squared norm of a group's mean gradient, from pairs of groups that share no
    response; may be negative."""


def truth(config: PredictConfig, data: Collected, split: Split, seed: int) -> Truth:
    """Average over random groups of the judging responses."""
    rng = np.random.default_rng([config.seed, 2, seed])
    rewards, size = data.rewards[:, split.judging], config.group_size
    rows = np.arange(data.num_prompts)[:, None]
    metrics = {"plain": data.products, "adam": data.adam_products}
    moments = {name: np.zeros(data.num_prompts) for name in metrics}
    squared_means = {name: np.zeros(data.num_prompts) for name in metrics}
    mixed = np.zeros(data.num_prompts)
    for _ in range(DRAWS_OF_GROUPS):
        dealt = rng.permuted(np.broadcast_to(split.judging, rewards.shape), axis=1)
        columns, others = dealt[:, :size], dealt[:, size : 2 * size]
        parts = [standardised(data.rewards[rows, part]) / size for part in (columns, others)]
        mixed += parts[0].any(axis=1)
        for name, products in metrics.items():
            for found, right, again in (
                (moments, parts[0], columns),
                (squared_means, parts[1], others),
            ):
                between = products[rows[:, :, None], columns[:, :, None], again[:, None, :]]
                found[name] += np.einsum("ni,nij,nj->n", parts[0], between, right)
    lengths = data.lengths[:, split.judging].mean(axis=1)
    noise = rewards.var(axis=1).mean() / max(rewards.shape[1] - 1, 1)
    return Truth(
        costs=config.price.of_drawing(data.prompt_tokens, lengths, size),
        pass_rates=rewards.mean(axis=1),
        pass_rate_noise=float(noise),
        mixed=mixed / DRAWS_OF_GROUPS,
        moments={name: total / DRAWS_OF_GROUPS for name, total in moments.items()},
        squared_means={name: total / DRAWS_OF_GROUPS for name, total in squared_means.items()},
    )


@dataclass(frozen=True, slots=True)
class Belief:
    """What the plugs know of the prompts."""

    lengths: FloatArray
    """[N] expected tokens of a response."""
    pass_rates: FloatArray
    """[N] as the scheduler estimates them for every utility."""
    posterior: tuple[FloatArray, FloatArray]
    """[N] a and b of `utility=posterior`."""
    worths: dict[str, FloatArray]
    """By name of the utility, [N]."""


def believe(
    config: PredictConfig, data: Collected, pool: PromptPool, split: Split, num_visits: int
) -> tuple[Belief, BoolArray]:
    """Make the visits; 0 are one of half of the prompts.

    Returns:
        What is then believed, and [N] of which prompts it is to be judged.
    """
    judged = np.ones(data.num_prompts, dtype=bool)
    visited = split.order
    if num_visits == 0:
        visited, judged = split.order[split.visited_first[split.order]], ~split.visited_first
    visits = [
        _visit(data, int(i), split.visits[number * config.group_size :][: config.group_size])
        for number in range(max(num_visits, 1))
        for i in visited
    ]

    def learned(plug: Any) -> Any:
        return updated(plug, initial_state(plug, pool), pool, visits)

    rates = PASS_RATES.estimate(learned(PASS_RATES), pool)
    posterior = PosteriorMoment()
    worths = {
        name: plug.value(pool, rates, config.group_size, **keywords(learned(plug)))
        for name, plug in config.utilities.items()
    }
    belief = Belief(
        lengths=config.length.estimate(pool, **keywords(learned(config.length))),
        pass_rates=rates,
        posterior=posterior.posterior(pool, learned(posterior)),
        worths=worths,
    )
    return belief, judged


def _visit(data: Collected, index: int, columns: IntArray) -> Visit:
    rewards, lengths = data.rewards[index, columns], data.lengths[index, columns]
    tokens = int(data.prompt_tokens[index])
    report = LengthReport(
        ticket_id=0,
        prompt_index=index,
        prompt_tokens=tokens,
        prefill_tokens=tokens,
        lengths=lengths,
        truncated=np.zeros(len(columns), dtype=bool),
        rewards=rewards,
        status=np.zeros(len(columns), dtype=np.int64),
        surprise=data.surprise[index, columns],
        answer_codes=np.arange(len(columns)),
        engine_seconds=0.0,
        version=0,
    )
    return Visit(report, 1.0, report.usable, standardised(rewards), 1.0 / np.maximum(lengths, 1))


def cost_times_moment(probabilities: FloatArray, moments: FloatArray, costs: FloatArray) -> float:
    """Return (sum p c) (sum V / p) over that of uniform draws; p [N] need not sum to 1."""
    above = (probabilities @ costs) * (moments / probabilities).sum()
    return float(above / (costs.sum() * moments.sum()))


def cost_times_variance(
    chances: FloatArray, moments: FloatArray, squared_means: FloatArray, costs: FloatArray
) -> float:
    """Return (sum q c) (sum V / q - B) over that of a pass that takes every prompt; all [N]."""
    above = (chances @ costs) * (moments / chances - squared_means).sum()
    return float(above / (costs.sum() * (moments - squared_means).sum()))


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean over splits and its standard error."""
    found = np.array(list(values))
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))
