"""Which loss tokens of an optimiser step are trained on: token-level thinning and CAPO's mask.

Token-level thinning (D3S, 2509.22115) trains on the top K percent of the step's loss tokens by
|advantage| x entropy, of those whose weight is not 0. A first pass without gradient finds the
entropies, the ranks exchange them, and one threshold holds for the whole step, so neither rows nor
ranks decide what is kept. With w_t the loss weights, l_t the token losses and T the kept tokens

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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from learner.batch import PADDING_SEGMENT, MicroBatch
from learner.curvature_config import RejectedShares
from learner.engine import Engine
from learner.objectives.curvature import (
    curvature_moments,
    head_gradient,
    thresholds,
    token_changes,
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


@dataclass(frozen=True, slots=True)
class TopTokens:
    """Thins at the level of tokens before a step, as a `learner.update.StepHook`.

    Raises:
        ValueError: If the share is out of range.
    """

    engine: Engine
    share: float
    """Share to train on of the step's loss tokens whose weight is not 0, in (0, 1], the same on all
    ranks; at 1 there is no pass to find entropies."""

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.share <= 1:
            raise ValueError(f"token_share must lie in (0, 1], got {self.share!r}")

    def before_step(
        self, rows: Sequence[MicroBatch]
    ) -> tuple[Sequence[MicroBatch], dict[str, float]]:
        """Give the rows the loss weights of token-level thinning; every rank must call this."""
        if self.share == 1:
            return rows, {}
        engine = self.engine
        row_scores = []
        for row in rows:
            with torch.no_grad():
                _, entropies = engine.logprobs(row.to(engine.device))
            row_scores.append(row.advantages.abs() * entropies.to(row.advantages.device))
        # Neither padding nor what was thinned away is ranked: it would take the place of tokens
        # that count, and where nothing else is kept there is no weight to divide by.
        masks = [
            row.loss_mask & (row.segment_ids != PADDING_SEGMENT) & (row.loss_weights != 0)
            for row in rows
        ]
        everyone = [
            engine.gather(_masked(values, masks).to(engine.device))
            for values in (row_scores, [row.loss_weights for row in rows])
        ]
        threshold, factor = top_tokens(everyone[0], everyone[1], self.share)
        thinned = [
            torch.where(scores >= threshold, row.loss_weights * factor, 0.0)
            for row, scores in zip(rows, row_scores, strict=True)
        ]
        return _with_loss_weights(rows, thinned), {}


class OutputHead(Protocol):
    """Answers what CAPO's mask asks of the policy's output head and its optimiser."""

    @property
    def temperature(self) -> float:
        """Return the sampling temperature, which divides the logits."""
        ...

    def hidden_states(self, row: MicroBatch) -> Tensor:
        """Return hidden states [K, D] that predict a row's loss tokens; all ranks must ask."""
        ...

    def weight(self) -> Tensor:
        """Copy the head's whole weight: [V, D] float32; every rank must ask."""
        ...

    def change(self, gradient: Tensor) -> Tensor:
        """Foresee the next step's change of the head: [V, D] -> [V, D] float32; all ranks must ask.

        The ranks' parts of the loss's gradient are added up, in place; there is no clipping and no
        weight decay.
        """
        ...


@dataclass(frozen=True, slots=True)
class WithinCurvature:
    """Puts CAPO's mask on before a step, as a `learner.update.StepHook`."""

    engine: Engine
    head: OutputHead
    """That of the engine's policy."""
    shares: RejectedShares
    """Shares of the step's loss tokens, over all ranks, whose weight is not 0; the same on all."""

    @torch.no_grad()
    def before_step(
        self, rows: Sequence[MicroBatch]
    ) -> tuple[Sequence[MicroBatch], dict[str, float]]:
        """Take the weight from this rank's tokens that CAPO leaves out; every rank must call this.

        The metric counts them.
        """
        engine, temperature = self.engine, self.head.temperature
        # Neither padding nor what was thinned away is trained on.
        masks = [row.loss_mask & (row.loss_weights != 0) for row in rows]
        found = [
            self.head.hidden_states(row.to(engine.device)).cpu()[mask[row.loss_mask]]
            for row, mask in zip(rows, masks, strict=True)
        ]
        hidden = torch.cat(found)
        token_ids = _masked([row.token_ids for row in rows], masks).to(engine.device)
        advantages = _masked([row.advantages for row in rows], masks).to(engine.device)
        weights = _masked([row.loss_weights for row in rows], masks).to(engine.device)
        head = self.head.weight()
        gradient = head_gradient(hidden, head, token_ids, advantages * weights, temperature)
        # That was the gradient of what is to grow; Adam lowers a loss.
        change = self.head.change(gradient.neg_())
        changes = token_changes(hidden, head, change, token_ids, temperature)
        moment, shift_moment = curvature_moments(advantages, changes)
        everyone = engine.gather(moment), engine.gather(shift_moment)
        if not all(moments.isfinite().all() for moments in everyone):
            # Without a mask the step meets what is not finite by itself, and is skipped.
            return rows, {"curvature_rejected_share": 0.0}
        kept = thresholds(*everyone, self.shares).keep(advantages, changes).cpu()
        counts = [int(mask.sum()) for mask in masks]
        left = [row.loss_weights.clone() for row in rows]
        for loss_weights, mask, keep in zip(left, masks, torch.split(kept, counts), strict=True):
            loss_weights[mask] = torch.where(keep, loss_weights[mask], 0.0)
        rejected = float((~kept).sum())
        return _with_loss_weights(rows, left), {"curvature_rejected_share": rejected}


def _masked(values: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Join the values [T] of several rows where their masks [T] are True."""
    return torch.cat([value[mask] for value, mask in zip(values, masks, strict=True)])


def _with_loss_weights(
    rows: Sequence[MicroBatch], loss_weights: Sequence[Tensor]
) -> list[MicroBatch]:
    return [
        replace(row, loss_weights=weights) for row, weights in zip(rows, loss_weights, strict=True)
    ]
