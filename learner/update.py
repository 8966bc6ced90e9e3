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
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from learner.batch import MicroBatch
from learner.engine import Engine, StepOutcome
from learner.loss import Loss, RowOrigin
from learner.mismatch import derived

MAXIMA = {"max_logprob_difference": "kl_rollout_k1", "max_old_difference": "kl_old_k1"}
"""Maps a metric to the token value whose largest size it is."""


@dataclass(frozen=True, slots=True)
class StepSums:
    """Holds what one rank saw in one optimiser step, as sums that add up over ranks."""

    loss: float
    """This rank's part of the estimator's loss."""
    num_tokens: int
    """How many loss tokens there are."""
    num_row_tokens: int
    """How many tokens were processed, prompts included, padding not."""
    num_rows: int
    """How many rows there are, padding not included."""
    token_sums: dict[str, float]
    """Sums over loss tokens; divided by the tokens of all ranks they are the means to report."""
    token_maxima: dict[str, float]
    """Largest absolute values over loss tokens; maxima, not sums."""
    outcome: StepOutcome


class StepHook(Protocol):
    """Changes an optimiser step's rows before the step is taken."""

    def before_step(
        self, rows: Sequence[MicroBatch]
    ) -> tuple[Sequence[MicroBatch], dict[str, float]]:
        """Change this rank's rows, on the CPU; every rank must call this.

        Returns:
            As many rows, and metrics: name -> sum over this rank's loss tokens.
        """
        ...


@dataclass(frozen=True, slots=True)
class Updater:
    """Takes one rank's optimiser steps; made once for a run."""

    engine: Engine
    """The training engine; its ranks all take their steps at the same time."""
    loss: Loss

    def step(
        self,
        rows: Sequence[MicroBatch],
        origins: Sequence[RowOrigin] | None = None,
        hooks: Sequence[StepHook] = (),
    ) -> StepSums:
        """Run one optimiser step over this rank's rows.

        Args:
            rows: At least one, on every rank the same number; padding rows count.
            origins: One a row; None when rows say all there is to say.
            hooks: Each is given the rows that the one before it leaves; the same on all ranks.

        Raises:
            ValueError: If there are no rows.
        """
        if not rows:
            raise ValueError(f"rows must not be empty, got {rows!r}")
        engine = self.engine
        of_hooks: dict[str, float] = {}
        for hook in hooks:
            rows, found = hook.before_step(rows)
            of_hooks |= found
        if origins is None:
            origins = [RowOrigin()] * len(rows)
        while True:
            tally, finite = _Tally(dict(of_hooks)), True
            for index, (row, origin) in enumerate(zip(rows, origins, strict=True)):
                learner_logprobs, row_loss, values = self._forward(row.to(engine.device), origin)
                loss_value = row_loss.item()
                finite = finite and math.isfinite(loss_value)
                loss = row_loss * engine.num_ranks
                boundary = index == len(rows) - 1
                if boundary:
                    finite = engine.agree(finite)
                if boundary and not finite:
                    loss = loss + math.nan * learner_logprobs.sum()
                engine.backward(loss, boundary=boundary)
                tally.add(row, loss_value, values)
            outcome = engine.step()
            # A smaller scale would not help a loss that is not finite. Otherwise it ends too: each
            # try is at a smaller scale, and at the least there is no other try.
            if not (finite and outcome.retry):
                return tally.sums(replace(outcome, retry=False))

    def _forward(
        self, row: MicroBatch, origin: RowOrigin
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return a row's log-probabilities [T], its loss, and values to report."""
        # Before the pass with gradient, which holds the memory of its activations.
        ref_logprobs = self.engine.reference_logprobs(row) if self.loss.kl_coefficient else None
        learner_logprobs, entropies = self.engine.logprobs(
            row, entropy_gradient=self.loss.entropy_coefficient > 0
        )
        loss, values = self.loss.row_loss(row, origin, learner_logprobs, entropies, ref_logprobs)
        return learner_logprobs, loss, values


def old_logprobs(engine: Engine, rows: Sequence[MicroBatch]) -> list[Tensor]:
    """Score rows under the present weights; [T] on the CPU each. Every rank must call this."""
    with torch.no_grad():
        return [engine.logprobs(row.to(engine.device))[0].cpu() for row in rows]


@dataclass(slots=True)
class _Tally:
    """Adds up what a rank sees in the rows of one try at a step."""

    token_sums: dict[str, float]
    token_maxima: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    num_tokens: int = 0
    num_row_tokens: int = 0
    num_rows: int = 0

    def add(self, row: MicroBatch, loss: float, values: Mapping[str, Tensor]) -> None:
        """Add up the values [K] of a row's loss tokens, and keep the largest of some.

        Args:
            row: It is on the CPU; padding counts for nothing.
            loss: The row's part of the loss.
            values: What `Loss.row_loss` reports.
        """
        if row.is_padding:
            return
        self.loss += loss
        self.num_tokens += int(row.loss_mask.sum())
        self.num_row_tokens += len(row.token_ids)
        self.num_rows += 1
        if not len(values["kl_rollout_k1"]):
            return
        # One transfer from the device for all names.
        per_token = torch.stack([value.double() for value in values.values()])
        for name, total in zip(values, per_token.sum(dim=1).tolist(), strict=True):
            self.token_sums[name] = self.token_sums.get(name, 0.0) + total
        for name in MAXIMA.values():
            if name in values:
                largest = values[name].abs().max().item()
                self.token_maxima[name] = _largest([self.token_maxima.get(name, 0.0), largest])

    def sums(self, outcome: StepOutcome) -> StepSums:
        """Return the sums, with how the step ended."""
        return StepSums(
            loss=self.loss,
            num_tokens=self.num_tokens,
            num_row_tokens=self.num_row_tokens,
            num_rows=self.num_rows,
            token_sums=self.token_sums,
            token_maxima=self.token_maxima,
            outcome=outcome,
        )


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
            metrics[f"learner/{key}"] = _largest(found)
    names = sorted({name for sums in every for name in sums.token_sums})
    means = {
        name: sum(sums.token_sums.get(name, 0.0) for sums in every) / num_tokens for name in names
    }
    return metrics | {f"learner/{name}": mean for name, mean in (means | derived(means)).items()}


def _largest(values: Sequence[float]) -> float:
    """Return the largest value; NaN where one is NaN, which `max` may pass over, or without any."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=math.nan)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
