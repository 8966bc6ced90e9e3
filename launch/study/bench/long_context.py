"""Memory and time of a forward and backward pass over one long row, by how the learner holds it.

    length doubles  ->  whole | checkpointed | chunked  ->  peak bytes, seconds

Rows are whole up to a length. What the longest of them takes is the memory that the others have.
The model is the run's, its weights as they are, all of them trained.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import RunConfig
from launch.study.bench.peak_memory import peak_bytes
from launch.study.bench.workload import MOST_WORK, best_device, load_model, wait_for
from learner.chunked import ChunkedPolicy
from learner.logprobs import PackedPolicy
from learner.partition import Work

KINDS = ("whole", "checkpointed", "chunked")


@dataclass(frozen=True, slots=True)
class LongRow:
    """One segment of random tokens, and how far to go."""

    chunk_tokens: int = 256
    shortest: int = 1024
    longest_whole: int = 4096
    """Its memory is the budget; at least the shortest."""
    longest: int = 32768
    most_seconds: float = 60.0
    """After a pass that took longer, a kind goes no further."""

    @classmethod
    def of_model(cls, path: str) -> LongRow:
        """Choose for a model: large ones get a shorter row as the measure of memory."""
        row, work = cls(), Work.of_model(path)
        while row.longest_whole > row.shortest and work.of_prompt(row.longest_whole) > MOST_WORK:
            row = replace(row, longest_whole=row.longest_whole // 2)
        return row


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind at one length."""

    peak_bytes: int
    """Held at most during a pass, beyond model and gradients."""
    seconds: float
    """Forward and backward; the least of the repetitions."""


def measure(
    config: RunConfig, kind: str, row: LongRow, repetitions: int, budget_bytes: float = math.inf
) -> dict[int, Measured]:
    """Double the length until budget or time is passed.

    Args:
        config: Gives the model.
        kind: One of `KINDS`.
        row: Lengths and time.
        repetitions: Passes at each length, at least 1; slow ones are not repeated.
        budget_bytes: A kind goes no further once it has passed this.

    Returns:
        By length. All tokens but the first are in the loss.
    """
    device = best_device()
    learner = replace(config.learner, gradient_checkpointing=kind == "checkpointed")
    model = load_model(replace(config, learner=learner), device)
    policy = PackedPolicy(model, 1.0)
    if kind == "chunked":
        policy = ChunkedPolicy(model, 1.0, chunk_tokens=row.chunk_tokens)
    rng = np.random.default_rng(row.longest)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    token_ids = torch.from_numpy(rng.integers(0, vocabulary, row.longest)).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # What is set up once and for all is not the row's.
    _pass(policy, token_ids[: row.chunk_tokens])
    found: dict[int, Measured] = {}
    length = row.shortest
    while length <= (row.longest_whole if kind == "whole" else row.longest):
        once = partial(_pass, policy, token_ids[:length])
        seconds: list[float] = []
        while len(seconds) < repetitions and sum(seconds) <= row.most_seconds / 6:
            began = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - began)
        found[length] = Measured(peak_bytes(once, model), min(seconds))
        if found[length].peak_bytes > budget_bytes or found[length].seconds > row.most_seconds:
            break
        length *= 2
    return found


def _pass(policy: PackedPolicy, token_ids: Tensor) -> None:
    positions = torch.arange(len(token_ids), device=token_ids.device)
    logprobs, _ = policy(token_ids, positions, positions > 0)
    torch.autograd.backward(logprobs.mean())
    wait_for(policy)


def bench_long_context(
    config: RunConfig, *, repetitions: int, warm_ups: int, row: LongRow | None = None
) -> dict[str, Any]:
    """Double the length for each kind until it passes the budget or is too slow.

    Args:
        config: Gives the model and the learner's threads.
        repetitions: Passes of which the fastest counts.
        warm_ups: Further ones.
        row: Lengths and time; None chooses for the model.

    Returns:
        The budget; by kind and length `peak_bytes` and `seconds`; and the longest length of each
        kind within the budget.
    """
    torch.set_num_threads(config.learner.num_threads)
    row = row or LongRow.of_model(config.model.path)
    found: dict[str, dict[int, Measured]] = {}
    budget_bytes = math.inf
    for kind in KINDS:
        found[kind] = measure(config, kind, row, repetitions + warm_ups, budget_bytes)
        budget_bytes = max(m.peak_bytes for m in found["whole"].values())
    return {
        "chunk_tokens": row.chunk_tokens,
        "budget_bytes": budget_bytes,
        "measured": {
            kind: {str(length): asdict(m) for length, m in lengths.items()}
            for kind, lengths in found.items()
        },
        "longest_within_budget": {
            kind: max((n for n, m in lengths.items() if m.peak_bytes <= budget_bytes), default=0)
            for kind, lengths in found.items()
        },
    }
