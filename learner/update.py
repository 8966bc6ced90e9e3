"""One optimiser step on one rank, and how the ranks' sums become metrics.

    rows --engine.logprobs--> learner.loss --> row losses --engine.backward--> step

The rows' losses add up to the estimator's loss over all ranks. DeepSpeed averages gradients over
ranks, so each row's loss is multiplied by the number of ranks before it is differentiated.

A step in which any rank met a non-finite loss must be skipped by all of them. The ranks agree
before the last backward pass, and if one objects, all make their gradients NaN: from there on the
engine's own check for non-finite gradients discards everything, the same way in every ZeRO stage.

Before the step tokens can lose their weight in the loss, by hooks: see `learner.token_masks`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from learner.batch import MicroBatch
from learner.engine import Engine, StepOutcome
from learner.loss import LossTerms, RowOrigin, row_loss
from learner.mismatch import derived
from learner.objectives import Objective

MAXIMA = {"max_logprob_difference": "kl_rollout_k1", "max_old_difference": "kl_old_k1"}
"""Metric to the token value whose largest size it is."""


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


class StepHook(Protocol):
    """What an option does to an optimiser step's rows before the step is taken."""

    def before_step(
        self, rows: Sequence[MicroBatch]
    ) -> tuple[Sequence[MicroBatch], dict[str, float]]:
        """Change this rank's rows, on the CPU; every rank must call this.

        Returns:
            As many rows, and metrics: name -> sum over this rank's loss tokens.
        """
        ...


def update_step(
    engine: Engine,
    rows: Sequence[MicroBatch],
    objective: Objective,
    *,
    terms: LossTerms = LossTerms(),  # noqa: B008
    origins: Sequence[RowOrigin] | None = None,
    hooks: Sequence[StepHook] = (),
) -> StepSums:
    """Run one optimiser step over this rank's rows.

    Args:
        engine: The training engine; its ranks all call this with the same number of rows.
        rows: At least one; padding rows count.
        objective: Token losses.
        terms: What the loss has beside them.
        origins: One a row; None when rows say all there is to say.
        hooks: Each is given the rows that the one before it leaves; the same on all ranks.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError(f"rows must not be empty, got {rows!r}")
    of_hooks: dict[str, float] = {}
    for hook in hooks:
        rows, found = hook.before_step(rows)
        of_hooks |= found
    if origins is None:
        origins = [RowOrigin()] * len(rows)
    while True:
        sums = _try_step(engine, rows, origins, objective, terms)
        # It ends: each try is at a smaller scale, and at the least there is no other try.
        if not sums.outcome.retry:
            return replace(sums, token_sums=sums.token_sums | of_hooks)


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
