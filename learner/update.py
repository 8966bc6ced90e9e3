"""One optimiser step on one rank, and how the ranks' sums become metrics.

    rows --engine.logprobs--> learner.loss --> row losses --engine.backward--> step

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

CAPO's mask (2510.00819, `learner.objectives.curvature`) leaves tokens out at which the step would
bend the policy too much. A first pass without gradient finds the hidden states under the output
head. From them come the head's gradient of the whole step, over all ranks, and the change that Adam
would make of it; from that the moments of every token. The ranks exchange the moments, and again
one set of thresholds holds for the whole step. Tokens beyond them get the weight 0; nothing is
divided by what is kept. Which are left out depends on what was drawn, so this too is biased by
design. The step that is looked ahead to is that of the advantages alone, at ratio 1 and unclipped
(ours): not of corrections, of a KL or entropy term, or of the gradient's clipping to a norm. A
factor common to the whole change moves the thresholds along with the moments, since they are
quantiles. The paper has the states from a pass that it makes anyway, for less than 3% of a step's
time; ours costs a forward pass, and in float32 five products of the head's size per token. After
token-level thinning the mask looks at the tokens that are left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from learner.batch import PADDING_SEGMENT, MicroBatch
from learner.loss import LossTerms, RowOrigin, row_loss
from learner.mismatch import derived
from learner.objectives import Objective
from learner.objectives.curvature import (
    curvature_moments,
    head_gradient,
    thresholds,
    token_changes,
)

if TYPE_CHECKING:
    from learner.config import RejectedShares


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How an optimiser step ended; the same on every rank."""

    applied: bool
    """False when the gradient was not finite and nothing changed."""
    grad_norm: float
    """Norm of the step's gradient over all ranks before clipping; not finite when not applied."""
    lr: float
    """Learning rate of the step."""
    retry: bool = False
    """True when only the scale of the loss was too large, in float16; it is smaller now, and the
    same step can be tried again."""


MAXIMA = {"max_logprob_difference": "kl_rollout_k1", "max_old_difference": "kl_old_k1"}
"""Metric to the token value whose largest size it is."""


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

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities [T] with gradient and entropies [T] of a row's loss tokens.

        Entropies have a gradient if asked for.
        """
        ...

    def reference_logprobs(self, row: MicroBatch) -> Tensor:
        """Log-probabilities [T] of a row's loss tokens under the reference, without gradient."""
        ...

    @property
    def temperature(self) -> float:
        """Sampling temperature, which divides the logits."""
        ...

    def hidden_states(self, row: MicroBatch) -> Tensor:
        """Hidden states [K, D] under the output head that predict a row's loss tokens."""
        ...

    def head_weight(self) -> Tensor:
        """Copy the head's whole weight: [V, D] float32; every rank must ask."""
        ...

    def head_change(self, gradient: Tensor) -> Tensor:
        """How the next step would change the head: [V, D] -> [V, D] float32; all ranks must ask.

        The ranks' parts of the loss's gradient are added up, in place; there is no clipping and no
        weight decay.
        """
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
    token_maxima: dict[str, float]
    """Largest absolute values over loss tokens; maxima, not sums."""
    outcome: StepOutcome


def update_step(
    engine: Engine,
    rows: Sequence[MicroBatch],
    objective: Objective,
    *,
    terms: LossTerms = LossTerms(),  # noqa: B008
    origins: Sequence[RowOrigin] | None = None,
    token_share: float = 1.0,
    curvature: "RejectedShares | None" = None,
) -> StepSums:
    """Run one optimiser step over this rank's rows.

    Args:
        engine: The training engine; its ranks all call this with the same number of rows.
        rows: At least one; padding rows count.
        objective: Token losses.
        terms: What the loss has beside them.
        origins: One a row; None when rows say all there is to say.
        token_share: Share of the step's loss tokens to train on, in (0, 1], the same on all ranks;
            at 1 there is no pass to find entropies.
        curvature: What CAPO's mask may leave out, the same on all ranks; None for no mask.

    Raises:
        ValueError: If there are no rows, or the share is out of range.
    """
    if not rows:
        raise ValueError(f"rows must not be empty, got {rows!r}")
    if not 0 < token_share <= 1:
        raise ValueError(f"token_share must lie in (0, 1], got {token_share!r}")
    if token_share < 1:
        rows = _with_top_tokens(engine, rows, token_share)
    masked: dict[str, float] = {}
    if curvature is not None and curvature.masks:
        rows, num_rejected = _within_curvature(engine, rows, curvature)
        masked = {"curvature_rejected_share": float(num_rejected)}
    if origins is None:
        origins = [RowOrigin()] * len(rows)
    while True:
        sums = _try_step(engine, rows, origins, objective, terms)
        # It ends: each try is at a smaller scale, and at the least there is no other try.
        if not sums.outcome.retry:
            return replace(sums, token_sums=sums.token_sums | masked)


def _try_step(
    engine: Engine,
    rows: Sequence[MicroBatch],
    origins: Sequence[RowOrigin],
    objective: Objective,
    terms: LossTerms,
) -> StepSums:
    loss_sum, finite = 0.0, True
    token_sums: dict[str, float] = {}
    token_maxima: dict[str, float] = {}
    for index, (cpu_row, origin) in enumerate(zip(rows, origins, strict=True)):
        row = cpu_row.to(engine.device)
        # Before the pass with gradient, which holds the memory of its activations.
        ref_logprobs = engine.reference_logprobs(row) if terms.kl_coefficient else None
        learner_logprobs, entropies = engine.logprobs(
            row, entropy_gradient=terms.entropy_coefficient > 0
        )
        unscaled, values = row_loss(
            row, origin, learner_logprobs, entropies, ref_logprobs, objective, terms
        )
        loss_value = unscaled.item()
        finite = finite and math.isfinite(loss_value)
        loss = unscaled * engine.num_ranks
        boundary = index == len(rows) - 1
        if boundary:
            finite = engine.agree(finite)
        if boundary and not finite:
            loss = loss + math.nan * learner_logprobs.sum()
        engine.backward(loss, boundary=boundary)
        if not row.is_padding:
            loss_sum += loss_value
            _add(token_sums, token_maxima, values)
    outcome = engine.step()
    if not finite:
        # A smaller scale would not help.
        outcome = replace(outcome, retry=False)
    real_rows = [row for row in rows if not row.is_padding]
    return StepSums(
        loss=loss_sum,
        num_tokens=sum(int(row.loss_mask.sum()) for row in real_rows),
        num_row_tokens=sum(len(row.token_ids) for row in real_rows),
        num_rows=len(real_rows),
        token_sums=token_sums,
        token_maxima=token_maxima,
        outcome=outcome,
    )


def old_logprobs(engine: Engine, rows: Sequence[MicroBatch]) -> list[Tensor]:
    """Score rows under the present weights; [T] on the CPU each. Every rank must call this."""
    with torch.no_grad():
        return [engine.logprobs(row.to(engine.device))[0].cpu() for row in rows]


def _add(sums: dict[str, float], maxima: dict[str, float], values: Mapping[str, Tensor]) -> None:
    """Add up the values [K] of a row's tokens, and keep the largest of some."""
    if not len(values["kl_rollout_k1"]):
        return
    # One transfer from the device for all names.
    per_token = torch.stack([value.double() for value in values.values()])
    for name, total in zip(values, per_token.sum(dim=1).tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + total
    for name in MAXIMA.values():
        if name in values:
            maxima[name] = max(maxima.get(name, 0.0), values[name].abs().max().item())


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


@torch.no_grad()
def _within_curvature(
    engine: Engine, rows: Sequence[MicroBatch], shares: "RejectedShares"
) -> tuple[Sequence[MicroBatch], int]:
    """Take the weight from this rank's tokens that CAPO leaves out; every rank must call this.

    Args:
        engine: The training engine.
        rows: Of the step, on the CPU.
        shares: Of the step's loss tokens of all ranks whose weight is not 0.

    Returns:
        The rows, and how many tokens have lost their weight.
    """
    # Neither padding nor what was thinned away is trained on.
    masks = [row.loss_mask & (row.loss_weights != 0) for row in rows]
    found = [
        engine.hidden_states(row.to(engine.device)).cpu()[mask[row.loss_mask]]
        for row, mask in zip(rows, masks, strict=True)
    ]
    hidden = torch.cat(found)

    def chosen(values: Sequence[Tensor]) -> Tensor:
        mine = torch.cat([value[mask] for value, mask in zip(values, masks, strict=True)])
        return mine.to(engine.device)

    token_ids = chosen([row.token_ids for row in rows])
    advantages = chosen([row.advantages for row in rows])
    weights = chosen([row.loss_weights for row in rows])
    head = engine.head_weight()
    gradient = head_gradient(hidden, head, token_ids, advantages * weights, engine.temperature)
    # That was the gradient of what is to grow; Adam lowers a loss.
    change = engine.head_change(gradient.neg_())
    changes = token_changes(hidden, head, change, token_ids, engine.temperature)
    moment, shift_moment = curvature_moments(advantages, changes)
    everyone = engine.gather(moment), engine.gather(shift_moment)
    if not all(moments.isfinite().all() for moments in everyone):
        # Without a mask the step meets what is not finite by itself, and is skipped.
        return rows, 0
    kept = thresholds(*everyone, shares).keep(advantages, changes).cpu()
    counts = [int(mask.sum()) for mask in masks]
    masked = []
    for row, mask, keep in zip(rows, masks, torch.split(kept, counts), strict=True):
        loss_weights = row.loss_weights.clone()
        loss_weights[mask] = torch.where(keep, loss_weights[mask], 0.0)
        masked.append(replace(row, loss_weights=loss_weights))
    return masked, int((~kept).sum())


def merge_sums(steps: Sequence[Sequence[StepSums]], *, row_tokens: int) -> dict[str, float]:
    """Turn the sums of a batch's optimiser steps into metrics.

    Token means divide by the tokens of all ranks and steps together, never by ranks or rows.

    Args:
        steps: Per optimiser step the sums of every rank; may be empty.
        row_tokens: Room in a row.

    Returns:
        Metrics under `learner/`. `loss` and `grad_norm` are means over the optimiser steps that
        were applied and NaN without one; `row_fill` is used over available tokens in rows.
    """
    every = [sums for ranks in steps for sums in ranks]
    applied = [ranks for ranks in steps if ranks[0].outcome.applied]
    num_tokens = sum(sums.num_tokens for sums in every)
    num_rows = sum(sums.num_rows for sums in every)
    num_row_tokens = sum(sums.num_row_tokens for sums in every)
    metrics = {
        "learner/loss": _mean([sum(sums.loss for sums in ranks) for ranks in applied]),
        "learner/grad_norm": _mean([ranks[0].outcome.grad_norm for ranks in applied]),
        "learner/lr": steps[-1][0].outcome.lr if steps else math.nan,
        "learner/tokens": float(num_tokens),
        "learner/row_tokens": float(num_row_tokens),
        "learner/rows": float(num_rows),
        "learner/row_fill": num_row_tokens / (num_rows * row_tokens) if num_rows else math.nan,
        "learner/optimizer_steps": float(len(applied)),
        "learner/skipped_steps": float(len(steps) - len(applied)),
    }
    for key, name in MAXIMA.items():
        found = [sums.token_maxima[name] for sums in every if name in sums.token_maxima]
        if found or key == "max_logprob_difference":
            metrics[f"learner/{key}"] = max(found, default=math.nan)
    names = sorted({name for sums in every for name in sums.token_sums})
    means = {
        name: sum(sums.token_sums.get(name, 0.0) for sums in every) / num_tokens for name in names
    }
    return metrics | {f"learner/{name}": mean for name, mean in (means | derived(means)).items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
