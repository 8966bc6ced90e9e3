"""Packed rows against padded ones.

    packed:  responses -> plan_rows -> rows [T] -> Updater.step, prompts repeated
    padded:  batches of 8 in the given order -> [8, T_longest] with an attention mask

The packed side also computes entropies and metrics, as a run does; the padded side does not.
Neither computes logits for prompts (the padded side from the shortest prompt of the batch on).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from launch.study.bench.contest import MOST_WORK, Contest, GradientEngine, Setting, compete
from launch.study.bench.throughput import device_name, throughput
from launch.study.bench.workload import Workload
from learner.batch import Segment, collate
from learner.objectives.types import LossInputs


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Responses as rows of equal length, padded at the end; B rows of T tokens."""

    token_ids: Tensor
    """[B, T] int64"""
    attention_mask: Tensor
    """[B, T] int64, 0 on padding."""
    loss_mask: Tensor
    """[B, T] bool"""
    segment_ids: Tensor
    """[B, T] int64, the row's number."""
    rollout_logprobs: Tensor
    """[B, T] float32"""
    advantages: Tensor
    """[B, T] float32"""
    loss_weights: Tensor
    """[B, T] float32, 0 outside the loss mask."""


def pad(segments: Sequence[Segment], device: torch.device) -> PaddedBatch:
    """Lay segments out as rows of the longest one's length."""
    rows = [collate([segment]) for segment in segments]

    def stack(name: str) -> Tensor:
        columns = [getattr(row, name) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True).to(device)

    lengths = torch.tensor([len(row.token_ids) for row in rows], device=device)
    token_ids = stack("token_ids")
    positions = torch.arange(token_ids.shape[1], device=device)
    return PaddedBatch(
        token_ids=token_ids,
        attention_mask=(positions < lengths[:, None]).long(),
        loss_mask=stack("loss_mask"),
        segment_ids=torch.arange(len(rows), device=device)[:, None].expand_as(token_ids),
        rollout_logprobs=stack("rollout_logprobs"),
        advantages=stack("advantages"),
        loss_weights=stack("loss_weights"),
    )


def padded_logprobs(model: Any, batch: PaddedBatch, temperature: float) -> Tensor:
    """Log-probabilities [B, T] float32 of the loss tokens, 0 elsewhere."""
    first = int(batch.loss_mask.any(dim=0).nonzero()[0])
    num_tokens = batch.token_ids.shape[1]
    logits = model(
        input_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        logits_to_keep=torch.arange(first - 1, num_tokens - 1, device=batch.token_ids.device),
    ).logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    targets = batch.token_ids[:, first:]
    chosen = logits.gather(2, targets[..., None]).squeeze(2) - logits.logsumexp(dim=-1)
    logprobs = torch.nn.functional.pad(chosen, (first, 0))
    return torch.where(batch.loss_mask, logprobs, 0.0)


class PaddedContest(Contest):
    """With the other side of packing: rows of equal length."""

    def __init__(self, workload: Workload, setting: Setting, *, max_tokens: int) -> None:
        super().__init__(workload, setting, max_tokens=max_tokens)
        policy = setting.policy(self.engine.device)
        self._padded_engine = GradientEngine(policy, self.engine.device)
        self._padded_model = cast(Any, policy.model)
        # However the learner attends in packed rows, padded ones are left to torch's own kernel.
        self._padded_model.set_attn_implementation("sdpa")
        size = workload.batch_rows
        self.batches = [
            pad(self.segments[start : start + size], self.engine.device)
            for start in range(0, len(self.segments), size)
        ]

    def padded(self) -> Tensor:
        """Run the same step over the padded batches; returns the gradient."""
        for index, batch in enumerate(self.batches):
            logprobs = padded_logprobs(
                self._padded_model, batch, self._setting.numerics.temperature
            )
            inputs = LossInputs(
                learner_logprobs=logprobs.flatten(),
                rollout_logprobs=batch.rollout_logprobs.flatten(),
                advantages=batch.advantages.flatten(),
                segment_ids=batch.segment_ids.flatten(),
                loss_mask=batch.loss_mask.flatten(),
            )
            output = self._setting.objective.token_losses(inputs)
            loss = (batch.loss_weights.flatten() * output.token_losses).sum()
            self._padded_engine.backward(loss, boundary=index == len(self.batches) - 1)
        self._padded_engine.step()
        return self._padded_engine.gradient


def bench_packed(
    setting: Setting, workload: Workload, *, max_tokens: int, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Packed rows against padded ones; `ratio` is padded over packed."""
    workload = workload.within(setting.work, MOST_WORK)
    contest = PaddedContest(workload, setting, max_tokens=max_tokens)
    row_tokens = setting.learner.row_tokens
    rows = contest.rows(row_tokens, shared_prefix=False)
    run: dict[str, Callable[[], Tensor]] = {
        "packed": partial(contest.packed, rows),
        "padded": contest.padded,
    }
    tokens = sum(contest.lengths)
    padded_tokens = sum(batch.token_ids.numel() for batch in contest.batches)
    found = compete(run, repetitions=repetitions, warm_ups=warm_ups)
    return {
        **found,
        **throughput(
            contest.segments,
            setting.work,
            found["median_seconds"],
            device=device_name(),
            dtype=setting.numerics.dtype,
        ),
        "row_tokens": row_tokens,
        "num_rows": len(rows),
        "row_fill": tokens / (len(rows) * row_tokens),
        "batch_rows": workload.batch_rows,
        "num_batches": len(contest.batches),
        "padded_tokens": padded_tokens,
        "padding_share": 1 - tokens / padded_tokens,
        "tokens": tokens,
        "response_lengths": [int(segment.loss_mask.sum()) for segment in contest.segments],
        "prompt_lengths": [segment.num_prompt_tokens for segment in contest.segments],
    }
