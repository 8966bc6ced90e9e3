"""From the reports of a batch to the responses to train on.

plain:     reports -> advantages, factors (full groups) -> scores, costs -> thinning -> keep, weight
           -> clipping, if there is one -> weight
exploring: reports -> rewards, factors -> keep what has a positive reward, all of it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.advantages.penalties import penalised
from cost.advantages.types import GroupBatch, group_batch
from cost.draws.entropy_control import Explores
from cost.ledger import weight_metrics
from cost.scheduler.plugs import Plugs
from cost.scheduler.savings import thinning_saving
from cost.thinning.clipping import Clipping, clipped
from cost.thinning.reuse import Reuse
from cost.thinning.thinning import Candidates, Thinning
from cost.types import BoolArray, FloatArray, IntArray, LengthReport, Selection, Ticket
from cost.worth.turns import turns_taken


def select_batch(
    plugs: Plugs,
    tickets: Sequence[Ticket],
    reports: Sequence[LengthReport],
    folded: BoolArray,
    earlier_tokens: float,
    progress: float,
    rng: np.random.Generator,
    penalties: FloatArray | None,
) -> tuple[list[Selection], dict[str, float], Plugs, Candidates]:
    """Choose what to train on from P finished tickets.

    Args:
        plugs: With what they have learned.
        tickets: P tickets in draw order.
        reports: Their checked reports.
        folded: [P] True where a report was folded into the plugs' states.
        earlier_tokens: Mean response length of earlier batches.
        progress: Share of the run that is over before this batch, in [0, 1].
        rng: Stream of this batch's thinning.
        penalties: [R] of all responses, in units of advantage; None for none.

    Returns:
        P selections, metrics of the batch, the plugs as they are to be after the first pass, and
        the responses as the thinning saw them.
    """
    groups = group_batch(reports, tickets[0].max_tokens, folded)
    factors = plugs.factors(
        [report.own_lengths for report in reports],
        [report.trainable for report in reports],
        earlier_tokens,
    )
    weights = np.repeat([ticket.weight for ticket in tickets], groups.sizes)
    candidates = _candidates(plugs, reports, groups, penalties, factors, weights, progress)
    thinning = plugs.thin(candidates, rng)
    kept_weights = _weights(candidates, thinning, weights)
    unclipped = _selections(tickets, groups.sizes, candidates, thinning, kept_weights, factors)
    selections, gradient_metrics = clipped(plugs.clipping, reports, unclipped)
    metrics = thinning.metrics | weight_metrics(selections) | gradient_metrics
    metrics["cost/reward_mean_uniform"] = uniform_reward_mean(tickets, reports)
    if plugs.thinning.objective_preserving:
        metrics["cost/thinning_saving_estimated"] = thinning_saving(
            candidates.scores, candidates.costs, thinning.probabilities
        )
    return selections, metrics, plugs.thinned(candidates, thinning), candidates


@dataclass(frozen=True, slots=True)
class Earlier:
    """A batch that was selected from, as it is needed to select from it once more."""

    tickets: Sequence[Ticket]
    """The P plain members, in draw order."""
    reports: Sequence[LengthReport]
    """P, of the same."""
    candidates: Candidates
    """All their responses."""
    factors: Sequence[FloatArray]
    """[n] aggregation factors of each group."""

    def select(
        self, reuse: Reuse, clipping: Clipping | None, rng: np.random.Generator
    ) -> list[Selection]:
        """Choose what to train on once more; P selections, weights as for a batch of its own."""
        sizes = np.array([report.num_responses for report in self.reports], dtype=np.int64)
        thinning = reuse.thin(self.candidates, rng)
        weights = np.repeat([ticket.weight for ticket in self.tickets], sizes)
        kept_weights = _weights(self.candidates, thinning, weights)
        unclipped = _selections(
            self.tickets, sizes, self.candidates, thinning, kept_weights, self.factors
        )
        return clipped(clipping, self.reports, unclipped)[0]


def _candidates(
    plugs: Plugs,
    reports: Sequence[LengthReport],
    groups: GroupBatch,
    penalties: FloatArray | None,
    factors: Sequence[FloatArray],
    weights: FloatArray,
    progress: float,
) -> Candidates:
    """Score and price the responses [R] of a batch; `weights` [R] are their tickets'."""
    sizes = groups.sizes
    of_rewards = advantages = plugs.advantages(groups)
    if penalties is not None:
        advantages = penalised(of_rewards, groups, penalties, plugs.advantage.size_free)
    scores = plugs.scores(
        advantages,
        np.concatenate([report.own_lengths for report in reports]),
        np.concatenate([report.surprise for report in reports]),
        np.concatenate(factors),
        weights / np.repeat(sizes, sizes),
    )
    prompt_tokens = np.repeat([report.prompt_tokens for report in reports], sizes)
    return Candidates(
        scores=scores,
        costs=plugs.training_costs(
            prompt_tokens,
            groups.lengths,
            np.concatenate([report.environment_tokens for report in reports]),
        ),
        advantages=advantages,
        rewards=groups.rewards,
        usable=np.concatenate([report.trainable for report in reports]),
        groups=groups.groups,
        progress=progress,
        penalties=penalties,
        signal=None if penalties is None else of_rewards != 0,
        generating_cost=plugs.generating_cost(groups, prompt_tokens, turns_taken(reports)),
        prompt_costs=plugs.prompt_costs(prompt_tokens),
    )


def _selections(
    tickets: Sequence[Ticket],
    sizes: IntArray,
    candidates: Candidates,
    thinning: Thinning,
    kept_weights: FloatArray,
    factors: Sequence[FloatArray],
) -> list[Selection]:
    """Part what was chosen of all responses [R] into the groups of their tickets."""
    advantages = candidates.advantages if thinning.advantages is None else thinning.advantages
    ends = np.cumsum(sizes)
    return [
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


def select_exploring(
    plugs: Plugs,
    control: Explores | None,
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
        plugs: With what they have learned.
        control: What asked for the exploring tickets; None only where there are none.
        tickets: E exploring tickets in draw order; may be none.
        reports: Their checked reports.
        num_groups: P.
        earlier_tokens: Mean response length of earlier batches.

    Returns:
        E selections.
    """
    if not tickets:
        return []
    assert control is not None, "exploring tickets come from an entropy control"
    trainable = [report.trainable for report in reports]
    factors = plugs.factors([report.own_lengths for report in reports], trainable, earlier_tokens)
    scale = control.coefficient * num_groups / len(tickets)
    selections = []
    for ticket, report, ok, own_factors in zip(tickets, reports, trainable, factors, strict=True):
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
    """Estimate the mean reward under uniform draws from a batch drawn otherwise, without bias.

    (1/P) sum_k w_k r_k over the P tickets with a usable reward, r_k the mean of ticket k's usable
    rewards: each weight undoes its own draw, so that no quotient of random sums brings a bias of
    its own. Under uniform draws it is the plain mean over tickets. A ticket without a usable reward
    counts in neither sum nor P, which is without bias where losing a reward has nothing to do with
    the prompt. Carried tickets count with the weight of the draw that they came from. Exploring
    tickets, sampled at another temperature, and pilots must not be among `tickets`; nor can those
    be that an allocator filters, so that where it does, and where draws are not undone by weights,
    the figure is of what its batches hold.

    Args:
        tickets: The plain members of a batch.
        reports: Their reports.

    Returns:
        The estimate, which may lie outside the range of rewards; NaN without a usable reward.
    """
    scored = [
        (ticket.weight, rewards)
        for ticket, report in zip(tickets, reports, strict=True)
        if len(rewards := report.rewards[report.usable])
    ]
    if not scored:
        return math.nan
    weights = np.array([weight for weight, _ in scored])
    sizes = np.array([len(rewards) for _, rewards in scored])
    sums = np.add.reduceat(
        np.concatenate([rewards for _, rewards in scored]), np.cumsum(sizes) - sizes
    )
    return float(weights @ (sums / sizes) / len(weights))


def _weights(candidates: Candidates, thinning: Thinning, weights: FloatArray) -> FloatArray:
    """Ticket weight over keep probability; exactly the ticket weight where that is 1."""
    keep = thinning.keep
    assert not (keep & ~candidates.usable).any(), "a thinning kept a response without a reward"
    return np.divide(weights, thinning.probabilities, out=np.zeros(len(weights)), where=keep)
