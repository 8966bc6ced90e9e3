"""Forward and backward of one optimiser step: packed rows against rows padded to the longest.

    packed:  responses -> plan_rows -> rows [T] -> update_step, as the learner runs it
    padded:  batches of 8 in the given order -> [8, T_longest] with an attention mask

Both compute the same loss, and their gradients are compared before anything is timed. The packed
side also computes entropies and metrics, as a run does; the padded side does not. Neither computes
logits for prompts (the padded side from the shortest prompt of the batch on).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import RunConfig
from launch.bench.timing import ratio_of_medians, turns
from learner.batch import MicroBatch, Segment, collate
from learner.config import LearnerConfig
from learner.deepspeed_engine import load_policy
from learner.logprobs import PackedPolicy
from learner.objectives.types import Objective
from learner.partition import plan_rows
from learner.update import StepOutcome, update_step

CONTESTANTS = ("packed", "padded")
IGNORED = 0
"""Token id on padding; the attention mask hides it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Responses of lognormal length to prompts of uniform length, in groups."""

    num_responses: int = 64
    group_size: int = 8
    """Responses that follow each other and share a prompt's length."""
    mean_tokens: float = 74.0
    """Mean response length before the cut at the response limit."""
    sigma: float = 0.6
    """Standard deviation of the logarithm of the response length."""
    prompt_tokens: tuple[int, int] = (20, 40)
    """Shortest and longest prompt."""
    batch_rows: int = 8
    """Responses in one padded batch."""

    def segments(self, *, vocabulary: int, max_tokens: int, seed: int) -> list[Segment]:
        """Draw the responses: random tokens, advantages of mean 0, sequence-mean weights."""
        rng = np.random.default_rng([seed, self.num_responses])
        centre = np.log(self.mean_tokens) - self.sigma**2 / 2
        drawn = rng.lognormal(centre, self.sigma, self.num_responses)
        lengths = np.clip(np.rint(drawn).astype(int), 1, max_tokens)
        shortest, longest = self.prompt_tokens
        num_groups = -(-self.num_responses // self.group_size)
        prompts = np.repeat(rng.integers(shortest, longest + 1, num_groups), self.group_size)
        return [
            Segment(
                token_ids=rng.integers(0, vocabulary, prompt + length),
                loss_mask=np.arange(prompt + length) >= prompt,
                rollout_logprobs=np.zeros(prompt + length, np.float32),
                advantage=float(rng.normal()),
                loss_weight=1.0 / (self.num_responses * length),
            )
            for prompt, length in zip(prompts, lengths, strict=False)
        ]


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


class GradientEngine:
    """A `learner.update.Engine` for one process that keeps the gradient instead of applying it."""

    num_ranks = 1

    def __init__(self, policy: PackedPolicy, device: torch.device) -> None:
        self._policy = policy
        self.device = device
        self.gradient: Tensor = torch.zeros(0)
        """The latest step's gradient, all parameters one after the other."""

    def logprobs(self, row: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `learner.update.Engine`."""
        logprobs, entropies = self._policy(row.token_ids, row.position_ids, row.loss_mask)
        return logprobs, entropies

    def agree(self, value: bool) -> bool:
        """See `learner.update.Engine`."""
        return value

    def gather(self, values: Tensor) -> Tensor:
        """See `learner.update.Engine`."""
        return values

    def backward(self, loss: Tensor, *, boundary: bool) -> None:
        """See `learner.update.Engine`."""
        torch.autograd.backward(loss)

    def step(self) -> StepOutcome:
        """Keep the gradient, clear the parameters' and leave the weights alone."""
        gradients = [p.grad.flatten() for p in self._policy.parameters() if p.grad is not None]
        self.gradient = torch.cat(gradients)
        self._policy.zero_grad(set_to_none=True)
        norm = self.gradient.float().norm().item()
        return StepOutcome(applied=True, grad_norm=norm, lr=0.0)


class Contest:
    """The same responses laid out in both ways, and the same weights for both."""

    def __init__(
        self,
        workload: Workload,
        config: LearnerConfig,
        objective: Objective,
        *,
        model_path: str,
        dtype: str,
        temperature: float,
        max_tokens: int,
        seed: int,
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policies: list[PackedPolicy] = []
        for _ in CONTESTANTS:
            model: Any = load_policy(model_path, config, dtype)
            policies.append(PackedPolicy(model.to(device), temperature))
        # However the learner attends in packed rows, padded ones are left to torch's own kernel.
        model.set_attn_implementation("sdpa")
        self._padded_model, self._temperature = model, temperature
        self._objective = objective
        self.engine, self._padded_engine = (GradientEngine(p, device) for p in policies)
        segments = workload.segments(
            vocabulary=model.config.vocab_size, max_tokens=max_tokens, seed=seed
        )
        self.segments = [self._scored(segment) for segment in segments]
        self.lengths = [len(segment.token_ids) for segment in segments]
        self.rows = [
            collate([self.segments[item] for item in row])
            for row in plan_rows(self.lengths, 1, config.row_tokens)[0]
        ]
        size = workload.batch_rows
        self.batches = [
            pad(self.segments[start : start + size], device)
            for start in range(0, len(segments), size)
        ]

    @torch.no_grad()
    def _scored(self, segment: Segment) -> Segment:
        """Give a segment the policy's own log-probabilities, so that every ratio is 1."""
        row = collate([segment]).to(self.engine.device)
        return replace(segment, rollout_logprobs=self.engine.logprobs(row)[0].cpu().numpy())

    def packed(self) -> Tensor:
        """Run the learner's own step over the packed rows; returns the gradient."""
        update_step(self.engine, self.rows, self._objective)
        return self.engine.gradient

    def padded(self) -> Tensor:
        """Run the same step over the padded batches; returns the gradient."""
        for index, batch in enumerate(self.batches):
            logprobs = padded_logprobs(self._padded_model, batch, self._temperature)
            output = self._objective.token_losses(
                logprobs.flatten(),
                batch.rollout_logprobs.flatten(),
                batch.advantages.flatten(),
                batch.segment_ids.flatten(),
                batch.loss_mask.flatten(),
            )
            loss = (batch.loss_weights.flatten() * output.token_losses).sum()
            self._padded_engine.backward(loss, boundary=index == len(self.batches) - 1)
        self._padded_engine.step()
        return self._padded_engine.gradient


def bench_update(
    config: RunConfig, workload: Workload, *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Compare gradients, then measure both in turns with `learner.num_threads` threads."""
    torch.set_num_threads(config.learner.num_threads)
    contest = Contest(
        workload,
        config.learner,
        config.objective,
        model_path=config.model.path,
        dtype=config.model.dtype,
        temperature=config.rollout.temperature,
        max_tokens=config.rollout.max_tokens,
        seed=config.seed,
    )
    run = {"packed": contest.packed, "padded": contest.padded}
    packed, padded = contest.packed(), contest.padded()
    difference = ((packed - padded).abs().max() / padded.abs().max()).item()
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for turn in turns(CONTESTANTS, repetitions=repetitions, warm_ups=warm_ups):
        began = time.monotonic()
        run[turn.contestant]()
        if turn.measured:
            seconds[turn.contestant].append(time.monotonic() - began)
    tokens = sum(contest.lengths)
    packed_tokens = len(contest.rows) * config.learner.row_tokens
    padded_tokens = sum(batch.token_ids.numel() for batch in contest.batches)
    return {
        "median_seconds": {name: statistics.median(seconds[name]) for name in CONTESTANTS},
        **ratio_of_medians(seconds["padded"], seconds["packed"]),
        "gradients_agree": difference <= 1e-4,
        "gradient_relative_max_difference": difference,
        "gradient_norm": padded.float().norm().item(),
        "repetitions_seconds": seconds,
        "threads": torch.get_num_threads(),
        "device": str(contest.engine.device),
        "dtype": config.model.dtype,
        "row_tokens": config.learner.row_tokens,
        "num_rows": len(contest.rows),
        "row_fill": tokens / packed_tokens,
        "batch_rows": workload.batch_rows,
        "num_batches": len(contest.batches),
        "padded_tokens": padded_tokens,
        "padding_share": 1 - tokens / padded_tokens,
        "tokens": tokens,
        "response_lengths": [int(segment.loss_mask.sum()) for segment in contest.segments],
        "prompt_lengths": [int((~segment.loss_mask).sum()) for segment in contest.segments],
    }
