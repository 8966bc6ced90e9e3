"""Forward and backward pass over one batch in three layouts.

    shared:    responses behind one copy of their prompt -> rows [T], as runs learn
    repeated:  each response with its own prompt         -> rows [T]
    padded:    batches of 8 in the given order           -> [8, T_longest] with an attention mask

All give the same gradient, which tests/learner and tests/launch hold. The packed sides compute
entropies too, as a run does; none computes logits for prompts (the padded side from the shortest
prompt of the batch on).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from conf.schema import RunConfig
from launch.study.bench.peak_memory import peak_bytes
from launch.study.bench.throughput import throughput
from launch.study.bench.timing import ratio_of_medians, time_in_turns
from launch.study.bench.workload import Workload, best_device, load_model, wait_for
from learner.batch import MicroBatch, Segment, collate
from learner.logprobs import PackedPolicy
from learner.partition import Work, plan_rows

PADDED_ROWS = 8
"""Responses in one padded batch."""
PaddedBatch = dict[str, Tensor]
"""token_ids [B, T], attention_mask [B, T] and loss_weights [B, T], 0 outside the loss mask."""


def packed_step(policy: PackedPolicy, rows: Sequence[MicroBatch]) -> None:
    """Add the gradient of the weighted log-probabilities over packed rows."""
    for row in rows:
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        torch.autograd.backward((logprobs * row.loss_weights).sum())
    wait_for(policy)


def pad(segments: Sequence[Segment], device: torch.device) -> PaddedBatch:
    """Lay segments out as rows of the longest one's length, padded at the end."""
    rows = [collate([segment]) for segment in segments]

    def stack(columns: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(columns), batch_first=True).to(device)

    return {
        "token_ids": stack([row.token_ids for row in rows]),
        "attention_mask": stack([torch.ones_like(row.token_ids) for row in rows]),
        "loss_weights": stack([row.loss_weights for row in rows]),
    }


def padded_step(model: Any, batches: Sequence[PaddedBatch], temperature: float) -> None:
    """Add the same gradient over padded batches."""
    for batch in batches:
        token_ids, weights = batch["token_ids"], batch["loss_weights"]
        first = int((weights != 0).any(dim=0).nonzero()[0])
        logits = model(
            input_ids=token_ids,
            attention_mask=batch["attention_mask"],
            use_cache=False,
            logits_to_keep=torch.arange(first - 1, token_ids.shape[1] - 1, device=weights.device),
        ).logits.float()
        scored = logits / temperature
        chosen = scored.gather(2, token_ids[:, first:, None]).squeeze(2) - scored.logsumexp(dim=-1)
        torch.autograd.backward((chosen * weights[:, first:]).sum())
    wait_for(model)


def _rows(
    segments: Sequence[Segment], plan: Sequence[Sequence[int]], device: torch.device, *, share: bool
) -> list[MicroBatch]:
    picked = ([segments[item] for item in row] for row in plan)
    return [collate(row, shared_prefix=share).to(device) for row in picked]


def bench_layouts(
    config: RunConfig, workload: Workload, *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Time the layouts in turns.

    Returns:
        By layout median seconds, what was done per second, tokens computed, which part of them is
        needed, and the most bytes held beyond weights and gradients; and the ratios of seconds.
    """
    work = Work.of_model(config.model.path)
    workload = workload.within(work)
    device, row_tokens = best_device(), config.learner.row_tokens
    packed_model, padded_model = (load_model(config, device) for _ in range(2))
    # However the learner attends in packed rows, padded ones are left to torch's own kernel.
    padded_model.set_attn_implementation("sdpa")
    temperature = config.rollout.temperature
    policy = PackedPolicy(
        packed_model, temperature, logits_chunk_tokens=config.learner.logits_chunk_tokens
    )
    longest = min(config.rollout.max_tokens, row_tokens - workload.prompt_tokens[1])
    segments = workload.segments(
        vocabulary=packed_model.config.vocab_size, max_tokens=longest, seed=config.seed
    )
    [shared] = workload.plan(segments, 1, row_tokens, work)
    [repeated] = plan_rows([len(s.token_ids) for s in segments], 1, row_tokens)
    packed = {
        "shared": _rows(segments, shared, device, share=True),
        "repeated": _rows(segments, repeated, device, share=False),
    }
    starts = range(0, len(segments), PADDED_ROWS)
    batches = [pad(segments[start : start + PADDED_ROWS], device) for start in starts]
    computed = {name: sum(len(r.token_ids) for r in laid) for name, laid in packed.items()}
    computed["padded"] = sum(batch["token_ids"].numel() for batch in batches)
    run: dict[str, Callable[[], None]] = {
        name: partial(packed_step, policy, laid) for name, laid in packed.items()
    }
    run["padded"] = partial(padded_step, padded_model, batches, temperature)
    timed = time_in_turns(run, repetitions=repetitions, warm_ups=warm_ups)
    seconds = timed.seconds
    useful = sum(dict(workload.prompts(segments)).values())
    useful += sum(int(segment.loss_mask.sum()) for segment in segments)
    return {
        "median_seconds": timed.medians(),
        "repeated_over_shared": ratio_of_medians(seconds["repeated"], seconds["shared"]),
        "padded_over_repeated": ratio_of_medians(seconds["padded"], seconds["repeated"]),
        **throughput(segments, work, timed.medians(), dtype=config.model.dtype),
        "computed_tokens": computed,
        "useful_share": {name: useful / tokens for name, tokens in computed.items()},
        "peak_bytes": {
            name: peak_bytes(step, padded_model if name == "padded" else packed_model)
            for name, step in run.items()
        },
        "num_responses": len(segments),
        "row_tokens": row_tokens,
        "num_rows": len(packed["shared"]),
        "repetitions_seconds": seconds,
    }
