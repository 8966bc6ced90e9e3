"""From the reports of a batch to the responses to train on.

plain:     reports -> advantages, factors (full groups) -> scores, costs -> thinning -> keep, weight
exploring: reports -> rewards, factors -> keep what has a positive reward, all of it
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cost.advantages.types import GroupBatch, group_batch
from cost.ledger import weight_metrics
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.reports import usable
from cost.scheduler.savings import thinning_saving
from cost.state import with_state
from cost.thinning.proxies import Proxy
from cost.thinning.thinning import Candidates, Thinning
from cost.types import BoolArray, FloatArray, LengthReport, Selection, Ticket


def batch_advantages(
    config: SchedulerConfig, states: Mapping[str, Any], groups: GroupBatch
) -> FloatArray:
    """Return [R] float64 advantages of all responses of a batch."""
    advantages: FloatArray = with_state(config.advantage.advantages, states["advantage"])(groups)
    return advantages


def select_batch(
    config: SchedulerConfig,
    proxy: Proxy,
    states: Mapping[str, Any],
    tickets: Sequence[Ticket],
    reports: Sequence[LengthReport],
    folded: BoolArray,
    earlier_tokens: float,
    progress: float,
    rng: np.random.Generator,
) -> tuple[list[Selection], dict[str, float]]:
    """Choose what to train on from P finished tickets.

    Args:
        config: The plugs.
        proxy: Guess of gradient norms, the configured one or with fitted exponents.
        states: What each plug has learned, by the name of its field.
        tickets: P tickets in draw order.
        reports: Their checked reports.
        folded: [P] True where a report was folded into the states.
        earlier_tokens: Mean response length of earlier batches.
        progress: Share of the run's batches learned before this one, in [0, 1].
        rng: Stream of this batch's thinning.

    Returns:
        P selections, and metrics of the batch.
    """
    groups = group_batch(reports, tickets[0].max_tokens, folded)
    advantages = batch_advantages(config, states, groups)
    usables = [usable(report) for report in reports]
    lengths = [report.lengths for report in reports]
    factors = with_state(config.aggregation.factors, states["aggregation"])(
        lengths, usables, earlier_tokens
    )
    sizes = groups.sizes
    weights = np.repeat([ticket.weight for ticket in tickets], sizes)
    scores = with_state(proxy.score, states["proxy"])(
        advantages,
        groups.lengths,
        np.concatenate([report.surprise for report in reports]),
        np.concatenate(factors),
        weights / np.repeat(sizes, sizes),
    )
    prompt_tokens = np.repeat([report.prompt_tokens for report in reports], sizes)
    candidates = Candidates(
        scores=scores,
        costs=with_state(config.price.of_training, states["price"])(prompt_tokens, groups.lengths),
        advantages=advantages,
        rewards=groups.rewards,
        usable=groups.usable,
        groups=groups.groups,
        progress=progress,
    )
    thinning = with_state(config.thinning.thin, states["thinning"])(candidates, rng)
    kept_weights = _weights(candidates, thinning, weights)
    if thinning.advantages is not None:
        advantages = thinning.advantages
    ends = np.cumsum(sizes)
    selections = [
        Selection(
            ticket_id=ticket.ticket_id,
            keep=thinning.keep[start:end],
            weight=kept_weights[start:end],
            advantages=advantages[start:end],
            factors=group_factors,
            token_share=thinning.token_share,
        )
        for ticket, start, end, group_factors in zip(
            tickets, ends - sizes, ends, factors, strict=True
        )
    ]
    metrics = thinning.metrics | weight_metrics(selections)
    metrics["cost/reward_mean_uniform"] = uniform_reward_mean(tickets, reports)
    if config.thinning.objective_preserving:
        metrics["cost/thinning_saving_estimated"] = thinning_saving(
            candidates.scores, candidates.costs, thinning.probabilities
        )
    return selections, metrics


def select_exploring(
    config: SchedulerConfig,
    states: Mapping[str, Any],
    tickets: Sequence[Ticket],
    reports: Sequence[LengthReport],
    num_groups: int,
    earlier_tokens: float,
) -> list[Selection]:
    """Choose what to train on from a batch's exploring tickets: what has a positive reward.

    The learner divides by the P plain groups of the batch, while the term is a mean over the E
    exploring ones, so that with the ticket's weight w a response weighs coefficient * w * P / E.
    Factors are those of exploring groups for a batch of their own.

    Args:
        config: The plugs, with entropy control.
        states: What each plug has learned, by the name of its field.
        tickets: E exploring tickets in draw order; may be none.
        reports: Their checked reports.
        num_groups: P.
        earlier_tokens: Mean response length of earlier batches.

    Returns:
        E selections.
    """
    if not tickets:
        return []
    usables = [usable(report) for report in reports]
    factors = with_state(config.aggregation.factors, states["aggregation"])(
        [report.lengths for report in reports], usables, earlier_tokens
    )
    scale = config.entropy_control.coefficient * num_groups / len(tickets)
    selections = []
    for ticket, report, ok, own_factors in zip(tickets, reports, usables, factors, strict=True):
        advantages = np.where(ok & (report.rewards > 0), report.rewards, 0.0)
        keep = advantages > 0
        selections.append(
            Selection(
                ticket_id=ticket.ticket_id,
                keep=keep,
                weight=np.where(keep, scale * ticket.weight, 0.0),
                advantages=advantages,
                factors=own_factors,
                exploring=True,
            )
        )
    return selections


def uniform_reward_mean(tickets: Sequence[Ticket], reports: Sequence[LengthReport]) -> float:
    """Estimate the mean reward under uniform draws from a batch drawn otherwise.

    The ratio estimate sum_k w_k r_k / sum_k w_k over tickets with a usable reward, r_k their mean
    reward: for people to watch, where its small bias matters less than its calm. NaN for none.
    """
    scored = [
        (ticket.weight, rewards)
        for ticket, report in zip(tickets, reports, strict=True)
        if len(rewards := report.rewards[usable(report)])
    ]
    if not scored:
        return math.nan
    weights = np.array([weight for weight, _ in scored])
    sizes = np.array([len(rewards) for _, rewards in scored])
    sums = np.add.reduceat(
        np.concatenate([rewards for _, rewards in scored]), np.cumsum(sizes) - sizes
    )
    return float(weights @ (sums / sizes) / weights.sum())


def _weights(candidates: Candidates, thinning: Thinning, weights: FloatArray) -> FloatArray:
    """Ticket weight over keep probability; exactly the ticket weight where that is 1."""
    keep = thinning.keep
    assert not (keep & ~candidates.usable).any(), "a thinning kept a response without a reward"
    return np.divide(weights, thinning.probabilities, out=np.zeros(len(weights)), where=keep)
