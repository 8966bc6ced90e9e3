"""Forward and backward of one optimiser step, laid out and computed in different ways.

    packed:    responses -> plan_rows -> rows [T] -> update_step, prompts repeated
    padded:    batches of 8 in the given order -> [8, T_longest] with an attention mask
    shared:    as packed, with one copy of a prompt for its responses in a row
    repeated:  as packed, the same responses
    chunked:   log-probabilities of one row as the learner computes them
    plain:     log-softmax of all its logits at once

Both sides of a pair compute the same loss, and their gradients are compared before anything is
timed. The packed side also computes entropies and metrics, as a run does; the padded side does not.
Neither computes logits for prompts (the padded side from the shortest prompt of the batch on).
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conf.schema import RunConfig
from launch.bench.timing import ratio_of_medians, turns
from learner import attention
from learner.batch import MicroBatch, Segment, collate
from learner.config import LearnerConfig
from learner.deepspeed_engine import load_policy
from learner.logprobs import PackedPolicy
from learner.objectives.types import Objective
from learner.partition import TOKENS, MinibatchPlan, Work, plan_rows, rank_balance, work_of_rows
from learner.update import StepOutcome, update_step

SHARED_ROW_TOKENS = 2048
PLAN_ROW_TOKENS = 4096


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
        sizes = rng.integers(shortest, longest + 1, num_groups)
        prompts = [rng.integers(0, vocabulary, size) for size in sizes]
        segments = []
        for item, length in enumerate(lengths):
            prompt = prompts[item // self.group_size]
            total = len(prompt) + length
            segments.append(
                Segment(
                    token_ids=np.concatenate([prompt, rng.integers(0, vocabulary, length)]),
                    loss_mask=np.arange(total) >= len(prompt),
                    rollout_logprobs=np.zeros(total, np.float32),
                    advantage=float(rng.normal()),
                    loss_weight=1.0 / (self.num_responses * length),
                    num_prompt_tokens=len(prompt),
                )
            )
        return segments

    def plan(
        self, segments: Sequence[Segment], num_ranks: int, row_tokens: int, work: Work
    ) -> list[list[list[int]]]:
        """Plan the rows of segments whose groups share their prompts."""
        lengths = [len(segment.token_ids) for segment in segments]
        return plan_rows(lengths, num_ranks, row_tokens, prompts=self.prompts(segments), work=work)

    def prompts(self, segments: Sequence[Segment]) -> list[tuple[int, int]]:
        """Number and tokens of each segment's prompt."""
        return [
            (item // self.group_size, segment.num_prompt_tokens)
            for item, segment in enumerate(segments)
        ]


LONG_PROMPT = Workload(
    num_responses=16, group_size=8, mean_tokens=64.0, sigma=0.0, prompt_tokens=(512, 512)
)
SHORT_PROMPT = replace(LONG_PROMPT, mean_tokens=256.0, prompt_tokens=(32, 32))
BATCH = Workload(num_responses=512, mean_tokens=300.0, prompt_tokens=(60, 400))
"""A batch to plan only."""


@dataclass(frozen=True, slots=True)
class HeadLoad:
    """One row of a model that is nothing but a vocabulary: size decides."""

    vocabulary: int = 49152
    num_tokens: int = 1024
    hidden_size: int = 64
    chunk_tokens: int = 128


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

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """See `learner.update.Engine`."""
        logprobs, entropies = self._policy(
            row.token_ids, row.position_ids, row.loss_mask, entropy_gradient
        )
        return logprobs, entropies

    def reference_logprobs(self, row: MicroBatch) -> Tensor:
        """See `learner.update.Engine`; the losses timed here have no reference."""
        raise NotImplementedError

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


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contests of a configuration have in common."""

    learner: LearnerConfig
    objective: Objective
    model_path: str
    dtype: str
    temperature: float
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> Setting:
        """Take it out of a run's configuration."""
        return cls(
            learner=config.learner,
            objective=config.objective,
            model_path=config.model.path,
            dtype=config.model.dtype,
            temperature=config.rollout.temperature,
            seed=config.seed,
        )

    def policy(self, device: torch.device) -> PackedPolicy:
        """Load a policy as the learner does."""
        model: Any = load_policy(self.model_path, self.learner, self.dtype)
        return PackedPolicy(
            model.to(device),
            self.temperature,
            logits_chunk_tokens=self.learner.logits_chunk_tokens,
        )


class Contest:
    """The same responses laid out in several ways, and the same weights for all."""

    def __init__(self, workload: Workload, setting: Setting, *, max_tokens: int) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._setting, self._workload = setting, workload
        policy = setting.policy(device)
        self._objective = setting.objective
        self.engine = GradientEngine(policy, device)
        model: Any = policy.model
        segments = workload.segments(
            vocabulary=model.config.vocab_size,
            max_tokens=max_tokens,
            seed=setting.seed,
        )
        self.segments = [self._scored(segment) for segment in segments]
        self.lengths = [len(segment.token_ids) for segment in segments]

    @torch.no_grad()
    def _scored(self, segment: Segment) -> Segment:
        """Give a segment the policy's own log-probabilities, so that every ratio is 1."""
        row = collate([segment]).to(self.engine.device)
        return replace(segment, rollout_logprobs=self.engine.logprobs(row)[0].cpu().numpy())

    def rows(self, row_tokens: int, *, shared_prefix: bool) -> list[MicroBatch]:
        """Pack the responses on one rank."""
        if shared_prefix:
            [plan] = self._workload.plan(
                self.segments, 1, row_tokens, Work.of_model(self._setting.model_path)
            )
        else:
            [plan] = plan_rows(self.lengths, 1, row_tokens)
        return [
            collate([self.segments[item] for item in row], shared_prefix=shared_prefix)
            for row in plan
        ]

    def packed(self, rows: Sequence[MicroBatch]) -> Tensor:
        """Run the learner's own step over packed rows; returns the gradient."""
        update_step(self.engine, rows, self._objective)
        return self.engine.gradient


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
            logprobs = padded_logprobs(self._padded_model, batch, self._setting.temperature)
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


def compete(
    run: Mapping[str, Callable[[], Tensor]], *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Compare the gradients of two sides, then time them in turns.

    Returns:
        Seconds, the second side's over the first side's, and how far the gradients are apart.
    """
    first, second = run
    one, other = run[first](), run[second]()
    difference = ((one - other).abs().max() / other.abs().max()).item()
    seconds: dict[str, list[float]] = {name: [] for name in run}
    for turn in turns(list(run), repetitions=repetitions, warm_ups=warm_ups):
        began = time.monotonic()
        run[turn.contestant]()
        if turn.measured:
            seconds[turn.contestant].append(time.monotonic() - began)
    return {
        "median_seconds": {name: statistics.median(seconds[name]) for name in run},
        **ratio_of_medians(seconds[second], seconds[first]),
        "gradients_agree": difference <= 1e-4,
        "gradient_relative_max_difference": difference,
        "gradient_norm": other.float().norm().item(),
        "repetitions_seconds": seconds,
    }


def bench_packed(
    setting: Setting, workload: Workload, *, max_tokens: int, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Packed rows against padded ones; `ratio` is padded over packed."""
    contest = PaddedContest(workload, setting, max_tokens=max_tokens)
    row_tokens = setting.learner.row_tokens
    rows = contest.rows(row_tokens, shared_prefix=False)
    run: dict[str, Callable[[], Tensor]] = {
        "packed": partial(contest.packed, rows),
        "padded": contest.padded,
    }
    tokens = sum(contest.lengths)
    padded_tokens = sum(batch.token_ids.numel() for batch in contest.batches)
    return {
        **compete(run, repetitions=repetitions, warm_ups=warm_ups),
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


def bench_shared(
    setting: Setting, workload: Workload, *, row_tokens: int, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Shared prompts against repeated ones; `ratio` is repeated over shared."""
    contest = Contest(workload, setting, max_tokens=row_tokens)
    rows = {
        name: contest.rows(row_tokens, shared_prefix=name == "shared")
        for name in ("shared", "repeated")
    }
    run = {name: partial(contest.packed, laid_out) for name, laid_out in rows.items()}
    return {
        **compete(run, repetitions=repetitions, warm_ups=warm_ups),
        "prompt_tokens": workload.prompt_tokens[0],
        "response_tokens": int(workload.mean_tokens),
        "group_size": workload.group_size,
        "row_tokens": row_tokens,
        "row_tokens_computed": {
            name: sum(len(row.token_ids) for row in laid_out) for name, laid_out in rows.items()
        },
    }


def plan_figures(workload: Workload, work: Work, *, row_tokens: int, seed: int) -> dict[str, Any]:
    """What plans of a batch compute, for several numbers of ranks.

    Returns:
        Per number of ranks the share of the computed tokens that none of the others repeats or
        pads, the mean over the largest work of a rank, the same where ranks were given equal
        tokens, and the rows of a rank.
    """
    segments = workload.segments(vocabulary=100, max_tokens=row_tokens - 400, seed=seed)
    lengths = [len(segment.token_ids) for segment in segments]
    prompts = workload.prompts(segments)
    useful = sum(dict(prompts).values()) + sum(
        length - prompt for length, (_, prompt) in zip(lengths, prompts, strict=True)
    )

    def balance(plan: Sequence[Sequence[Sequence[int]]]) -> float:
        works = [work_of_rows(rows, lengths, prompts=prompts, work=work) for rows in plan]
        return rank_balance([[MinibatchPlan(num_groups=1, rows=(), work=w) for w in works]])

    found: dict[str, Any] = {}
    for num_ranks in (1, 2, 4, 8):
        began = time.monotonic()
        plan = workload.plan(segments, num_ranks, row_tokens, work)
        seconds = time.monotonic() - began
        rows = [
            collate([segments[item] for item in row], shared_prefix=True)
            for rank_rows in plan
            for row in rank_rows
        ]
        computed = sum(len(row.token_ids) for row in rows)
        found[str(num_ranks)] = {
            "useful_share": useful / computed,
            "rank_balance": balance(plan),
            "rank_balance_by_tokens": balance(
                workload.plan(segments, num_ranks, row_tokens, TOKENS)
            ),
            "rows_per_rank": len(plan[0]),
            "largest_row": max(len(row.token_ids) for row in rows),
            "seconds": seconds,
        }
    return {"useful_tokens": useful, "repeated_tokens": sum(lengths), "by_ranks": found}


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operators inside it make, and what is freed of them.

    What an operator uses for itself and gives up before it returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place == 0 or place in self._known:
            return
        self._known.add(place)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


def bench_logprobs(load: HeadLoad, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Chunked log-probabilities against plain ones: time, and bytes at the peak.

    `ratio` is plain over chunked seconds; memory is of forward and backward, weights not included.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=load.hidden_size, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, vocab_size=load.vocabulary, max_position_embeddings=32,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.set_attn_implementation(attention.register())
    policy = PackedPolicy(model, 0.9, logits_chunk_tokens=load.chunk_tokens)
    rng = np.random.default_rng(0)
    size = 16
    segments = [
        Segment(
            token_ids=rng.integers(0, load.vocabulary, size + 1),
            loss_mask=np.arange(size + 1) > 0,
            rollout_logprobs=np.zeros(size + 1, np.float32),
            advantage=1.0,
            loss_weight=float(rng.random()),
        )
        for _ in range(load.num_tokens // size)
    ]
    row = collate(segments)
    targets = row.loss_mask.nonzero().squeeze(1)

    def gradient(loss: Tensor) -> Tensor:
        torch.autograd.backward(loss)
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
        return found

    def chunked() -> Tensor:
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        return gradient((logprobs * row.loss_weights).sum())

    def plain() -> Tensor:
        logits = model(
            input_ids=row.token_ids[None],
            position_ids=row.position_ids[None],
            use_cache=False,
            logits_to_keep=targets - 1,
        ).logits[0]
        scored = (logits.float() / 0.9).log_softmax(-1)
        # Entropies too, as the learner reports them.
        (scored.detach().exp() * scored.detach()).sum(-1)
        chosen = scored.gather(1, row.token_ids[targets, None]).squeeze(1)
        return gradient((chosen * row.loss_weights[targets]).sum())

    run: dict[str, Callable[[], Tensor]] = {"chunked": chunked, "plain": plain}
    peaks = {}
    for name, function in run.items():
        with PeakMemory() as peak:
            function()
        peaks[name] = peak.most
    return {
        **compete(run, repetitions=repetitions, warm_ups=warm_ups),
        "vocabulary": load.vocabulary,
        "loss_tokens": len(targets),
        "chunk_tokens": load.chunk_tokens,
        "peak_bytes": peaks,
        "peak_bytes_plain_over_chunked": peaks["plain"] / peaks["chunked"],
    }


def bench_learner(
    config: RunConfig,
    workload: Workload,
    *,
    repetitions: int,
    warm_ups: int,
    long_prompt: Workload = LONG_PROMPT,
    short_prompt: Workload = SHORT_PROMPT,
    head: HeadLoad = HeadLoad(),
) -> dict[str, Any]:
    """Measure all pairs with `learner.num_threads` threads."""
    torch.set_num_threads(config.learner.num_threads)
    setting = Setting.of(config)
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    shapes = {"long_prompt": long_prompt, "short_prompt": short_prompt}
    return {
        "packed": bench_packed(setting, workload, max_tokens=config.rollout.max_tokens, **counts),
        "shared_prefix": {
            name: bench_shared(setting, shape, row_tokens=SHARED_ROW_TOKENS, **counts)
            for name, shape in shapes.items()
        },
        "logprobs": bench_logprobs(head, **counts),
        "plan": plan_figures(
            BATCH, Work.of_model(config.model.path), row_tokens=PLAN_ROW_TOKENS, seed=config.seed
        ),
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": config.model.dtype,
    }
