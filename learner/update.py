"""One optimiser step on one rank, and how the ranks' sums become metrics.

    rows --engine.logprobs--> objective --> loss_weights * token_losses --engine.backward--> step

The rows' losses add up to the estimator's loss over all ranks. DeepSpeed averages gradients over
ranks, so each row's loss is multiplied by the number of ranks before it is differentiated.

A step in which any rank met a non-finite loss must be skipped by all of them. The ranks agree
before the last backward pass, and if one objects, all make their gradients NaN: from there on the
engine's own check for non-finite gradients discards everything, the same way in every ZeRO stage.

Token-level thinning (D3S, 2509.22115) trains on the top K percent of the step's loss tokens by
|advantage| x entropy. A first pass without gradient finds the entropies, the ranks exchange them,
and one threshold holds for the whole step, so neither rows nor ranks decide what is kept. With w_t
the loss weights, l_t the token losses and T the kept tokens

    loss = (sum_t w_t / sum_{t in T} w_t) * sum_{t in T} w_t l_t

which is the weighted mean of the losses of the kept tokens, times the total weight that the loss
has without token-level thinning: the learning rate keeps its meaning, tokens that count the same
give the paper's plain mean over kept tokens, and K = 100% is the plain loss. The divisor depends on
what is kept, so this is biased, as D3S is by design.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from learner.batch import PADDING_SEGMENT, MicroBatch
from learner.objectives import Objective


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How an optimiser step ended; the same on every rank."""

    applied: bool
    """False when the gradient was not finite and nothing changed."""
    grad_norm: float
    """Norm of the step's gradient over all ranks before clipping; not finite when not applied."""
    lr: float
    """Learning rate of the step."""


class Engine(Protocol):
    """What the update needs from a training engine."""

    @property
    def num_ranks(self) -> int:
        """Ranks whose gradients are averaged."""
        ...

    @property
    def device(self) -> torch.device:
        """Where rows must be."""
        ...

    def logprobs(self, row: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities [T] with gradient and entropies [T] of a row's loss tokens."""
        ...

    def agree(self, value: bool) -> bool:
        """True if the value is true on every rank; every rank must ask."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Join the [n] values of all ranks in rank order, n may differ; every rank must ask."""
        ...

    def backward(self, loss: Tensor, *, boundary: bool) -> None:
        """Add a loss's gradient; `boundary` marks the last one before `step`."""
        ...

    def step(self) -> StepOutcome:
        """Clip and apply the gradient, or discard it if it is not finite; either way clear it."""
        ...


@dataclass(frozen=True, slots=True)
class StepSums:
    """What one rank saw in one optimiser step, as sums that add up over ranks."""

    loss: float
    """This rank's part of the estimator's loss."""
    num_tokens: int
    """Loss tokens."""
    num_row_tokens: int
    """Tokens processed, prompts included, padding not."""
    num_rows: int
    """Rows, padding not included."""
    token_sums: dict[str, float]
    """Sums over loss tokens; divided by the tokens of all ranks they are the means to report."""
    max_logprob_difference: float
    """Largest |learner - rollout| log-probability; a maximum, not a sum."""
    outcome: StepOutcome


def update_step(
    engine: Engine, rows: Sequence[MicroBatch], objective: Objective, *, token_share: float = 1.0
) -> StepSums:
    """Run one optimiser step over this rank's rows.

    Args:
        engine: The training engine; its ranks all call this with the same number of rows.
        rows: At least one; padding rows count.
        objective: Token losses.
        token_share: Share of the step's loss tokens to train on, in (0, 1], the same on all ranks;
            at 1 there is no pass to find entropies.

    Raises:
        ValueError: If there are no rows, or the share is out of range.
    """
    if not rows:
        raise ValueError(f"rows must not be empty, got {rows!r}")
    if not 0 < token_share <= 1:
        raise ValueError(f"token_share must lie in (0, 1], got {token_share!r}")
    if token_share < 1:
        rows = _with_top_tokens(engine, rows, token_share)
    loss_sum = 0.0
    token_sums: dict[str, float] = {}
    max_difference = 0.0
    finite = True
    for index, cpu_row in enumerate(rows):
        row = cpu_row.to(engine.device)
        learner_logprobs, entropies = engine.logprobs(row)
        output = objective.token_losses(
            learner_logprobs, row.rollout_logprobs, row.advantages, row.segment_ids, row.loss_mask
        )
        row_loss = (row.loss_weights * output.token_losses).sum()
        loss_value = row_loss.item()
        finite = finite and math.isfinite(loss_value)
        loss = row_loss * engine.num_ranks
        boundary = index == len(rows) - 1
        if boundary and not engine.agree(finite):
            loss = loss + math.nan * learner_logprobs.sum()
        engine.backward(loss, boundary=boundary)
        if row.is_padding:
            continue
        loss_sum += loss_value
        difference = (learner_logprobs.detach() - row.rollout_logprobs)[row.loss_mask]
        per_token = {name: values[row.loss_mask] for name, values in output.metrics.items()}
        per_token |= {
            "entropy": entropies[row.loss_mask],
            "kl_rollout_k1": -difference,
            "kl_rollout": difference.clamp(max=20.0).exp() - 1 - difference,
        }
        for name, values in per_token.items():
            token_sums[name] = token_sums.get(name, 0.0) + values.double().sum().item()
        if len(difference):
            max_difference = max(max_difference, difference.abs().max().item())
    real_rows = [row for row in rows if not row.is_padding]
    return StepSums(
        loss=loss_sum,
        num_tokens=sum(int(row.loss_mask.sum()) for row in real_rows),
        num_row_tokens=sum(len(row.token_ids) for row in real_rows),
        num_rows=len(real_rows),
        token_sums=token_sums,
        max_logprob_difference=max_difference,
        outcome=engine.step(),
    )


def top_tokens(scores: Tensor, loss_weights: Tensor, share: float) -> tuple[float, float]:
    """Decide which of an optimiser step's loss tokens to train on.

    Args:
        scores: [n] |advantage| x entropy of the loss tokens of all ranks.
        loss_weights: [n] their weights in the loss.
        share: Tokens to keep, in (0, 1]; n times it is rounded up.

    Returns:
        The least score to keep, and the factor of the kept tokens' weights. Tokens of exactly the
        least score are all kept. A threshold that is not a number keeps nothing, and the factor is
        not finite then, so that the step is skipped.
    """
    num_tokens = len(scores)
    if num_tokens == 0:
        return -math.inf, 1.0
    # Not one token more because 0.1 * 30 is a little above 3.
    num_kept = min(max(math.ceil(share * num_tokens - 1e-9), 1), num_tokens)
    threshold = scores.kthvalue(num_tokens - num_kept + 1).values
    weights = loss_weights.double()
    factor = weights.sum() / weights[scores >= threshold].sum()
    return threshold.item(), factor.item()


def _with_top_tokens(engine: Engine, rows: Sequence[MicroBatch], share: float) -> list[MicroBatch]:
    """Give the rows the loss weights of token-level thinning; every rank must call this."""
    row_scores = []
    for row in rows:
        with torch.no_grad():
            _, entropies = engine.logprobs(row.to(engine.device))
        row_scores.append(row.advantages.abs() * entropies.to(row.advantages.device))
    masks = [row.loss_mask & (row.segment_ids != PADDING_SEGMENT) for row in rows]

    def everyone(values: Sequence[Tensor]) -> Tensor:
        mine = torch.cat([value[mask] for value, mask in zip(values, masks, strict=True)])
        return engine.gather(mine.to(engine.device))

    threshold, factor = top_tokens(
        everyone(row_scores), everyone([row.loss_weights for row in rows]), share
    )
    return [
        replace(row, loss_weights=torch.where(scores >= threshold, row.loss_weights * factor, 0.0))
        for row, scores in zip(rows, row_scores, strict=True)
    ]


def merge_sums(steps: Sequence[Sequence[StepSums]], *, row_tokens: int) -> dict[str, float]:
    """Turn the sums of a batch's optimiser steps into metrics.

    Token means divide by the tokens of all ranks and steps together, never by ranks or rows.

    Args:
        steps: Per optimiser step the sums of every rank; may be empty.
        row_tokens: Room in a row.

    Returns:
        Metrics under `learner/`. `loss` and `grad_norm` are means over the optimiser steps that
        were applied and NaN without one; `row_fill` is used over available tokens in rows;
        `rank_balance` is the mean over the largest number of tokens of a rank, 1 at best.
    """
    every = [sums for ranks in steps for sums in ranks]
    applied = [ranks for ranks in steps if ranks[0].outcome.applied]
    num_tokens = sum(sums.num_tokens for sums in every)
    num_rows = sum(sums.num_rows for sums in every)
    num_row_tokens = sum(sums.num_row_tokens for sums in every)
    largest = sum(max(sums.num_row_tokens for sums in ranks) * len(ranks) for ranks in steps)
    metrics = {
        "learner/loss": _mean([sum(sums.loss for sums in ranks) for ranks in applied]),
        "learner/grad_norm": _mean([ranks[0].outcome.grad_norm for ranks in applied]),
        "learner/lr": steps[-1][0].outcome.lr if steps else math.nan,
        "learner/tokens": float(num_tokens),
        "learner/row_tokens": float(num_row_tokens),
        "learner/rows": float(num_rows),
        "learner/row_fill": num_row_tokens / (num_rows * row_tokens) if num_rows else math.nan,
        "learner/rank_balance": num_row_tokens / largest if largest else math.nan,
        "learner/max_logprob_difference": max(
            (sums.max_logprob_difference for sums in every), default=math.nan
        ),
        "learner/optimizer_steps": float(len(applied)),
        "learner/skipped_steps": float(len(steps) - len(applied)),
    }
    names = sorted({name for sums in every for name in sums.token_sums})
    for name in names:
        total = sum(sums.token_sums.get(name, 0.0) for sums in every)
        metrics[f"learner/{name}"] = total / num_tokens if num_tokens else math.nan
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
