"""Memory and time of one forward and backward pass over a long row: whole, checkpointed, in chunks.

    length doubles  ->  whole | checkpointed | chunked, each in its own process  ->  peak, seconds

Rows are whole up to a length. What the longest of them takes is the memory that the others have.
What counts as memory on CPUs is the peak of the process over its peak before the pass (Linux); on
GPUs the allocator's. The model is the run's, its weights as they are, all of them trained.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conf.schema import RunConfig
from launch.study.bench.contest import MOST_WORK
from learner.chunked import ChunkedPolicy
from learner.config import LearnerConfig
from learner.logprobs import PackedPolicy
from learner.numerics import Numerics
from learner.partition import Work
from learner.policy import load_policy

CONTESTANTS = ("whole", "checkpointed", "chunked")


@dataclass(frozen=True, slots=True)
class LongRow:
    """One segment of random tokens, and how far to go."""

    chunk_tokens: int = 256
    shortest: int = 1024
    longest_whole: int = 4096
    """Its memory is the budget; at least the shortest."""
    longest: int = 32768
    most_seconds: float = 60.0
    """After a pass that took longer, a contestant goes no further."""
    repeated_seconds: float = 10.0
    """Once the passes at a length took longer, they are not repeated."""

    @classmethod
    def of_model(cls, path: str) -> LongRow:
        """Choose for a model: large ones get a shorter row as the measure of memory."""
        row, work = cls(), Work.of_model(path)
        while row.longest_whole > row.shortest and work.of_prompt(row.longest_whole) > MOST_WORK:
            row = replace(row, longest_whole=row.longest_whole // 2)
        return row


@dataclass(frozen=True, slots=True)
class Measured:
    """One contestant at one length."""

    peak_bytes: float
    """Held at most during the passes, beyond model and gradients."""
    seconds: float
    """Forward and backward; the least of the repetitions."""


def measure(
    path: str,
    numerics: Numerics,
    contestant: str,
    row: LongRow,
    repetitions: int,
    budget_bytes: float = math.inf,
) -> dict[int, Measured]:
    """Double the length until budget or time is passed, in this process, which should be fresh.

    A process's peak never falls, so the peak up to a length is that of the longest row so far.

    Args:
        path: Local folder of the model.
        numerics: Of the policy.
        contestant: One of `CONTESTANTS`.
        row: Lengths and time.
        repetitions: Passes at each length, at least 1; slow ones are not repeated.
        budget_bytes: A contestant goes no further once it has passed this.

    Returns:
        By length. All tokens but the first are in the loss.
    """
    config = LearnerConfig(gradient_checkpointing=contestant == "checkpointed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_policy(path, config, numerics)
    model.to(device)
    policy: PackedPolicy = PackedPolicy(model, numerics.temperature)
    if contestant == "chunked":
        policy = ChunkedPolicy(model, numerics.temperature, chunk_tokens=row.chunk_tokens)
    rng = np.random.default_rng(row.longest)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    token_ids = torch.from_numpy(rng.integers(0, vocabulary, row.longest)).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def passes(length: int) -> None:
        positions = torch.arange(length, device=device)
        logprobs, _ = policy(token_ids[:length], positions, positions > 0)
        logprobs.mean().backward()

    # What is set up once and for all is not the row's.
    passes(64)
    before = _peak_bytes(device, begin=True)
    found: dict[int, Measured] = {}
    length = row.shortest
    while length <= (row.longest_whole if contestant == "whole" else row.longest):
        seconds: list[float] = []
        for _ in range(repetitions):
            began = time.perf_counter()
            passes(length)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            if sum(seconds) > row.repeated_seconds:
                break
        found[length] = Measured(_peak_bytes(device) - before, min(seconds))
        if found[length].peak_bytes > budget_bytes or found[length].seconds > row.most_seconds:
            break
        length *= 2
    return found


def _peak_bytes(device: torch.device, *, begin: bool = False) -> float:
    if device.type == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.max_memory_allocated())
    # Not getrusage's figure, which begins at that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [kibibytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    return float(kibibytes) * 1024


def bench_long_context(
    config: RunConfig, row: LongRow, *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Double the length for each contestant until it passes the budget or is too slow.

    Args:
        config: Gives model and numerics.
        row: Lengths and time.
        repetitions: Passes of which the fastest counts.
        warm_ups: Further ones.

    Returns:
        Settings; by contestant and length `peak_bytes` and `seconds`; the longest length of each
        within the budget, and what ended it there; and the chunked contestant's seconds over the
        others' where both ran.
    """
    found: dict[str, dict[int, Measured]] = {}
    budget_bytes = math.inf
    context = multiprocessing.get_context("spawn")
    for contestant in CONTESTANTS:
        settings = (
            config.model.path, config.numerics, contestant, row, repetitions + warm_ups,
            budget_bytes,
        )  # fmt: skip
        with context.Pool(1) as pool:
            found[contestant] = pool.apply(measure, settings)
        if contestant == "whole":
            budget_bytes = max(m.peak_bytes for m in found[contestant].values())
    return {
        "chunk_tokens": row.chunk_tokens,
        "budget_bytes": budget_bytes,
        "measured": {
            name: {
                str(length): {"peak_bytes": m.peak_bytes, "seconds": m.seconds}
                for length, m in lengths.items()
            }
            for name, lengths in found.items()
        },
        "longest_within_budget": {
            name: max((n for n, m in lengths.items() if m.peak_bytes <= budget_bytes), default=0)
            for name, lengths in found.items()
        },
        "ended_by": {
            name: _ended_by(lengths, budget_bytes, row)
            for name, lengths in found.items()
            if name != "whole"
        },
        "chunked_seconds_over": {
            name: {
                str(length): found["chunked"][length].seconds / m.seconds
                for length, m in found[name].items()
                if length in found["chunked"]
            }
            for name in CONTESTANTS[:2]
        },
    }


def _ended_by(lengths: Mapping[int, Measured], budget_bytes: float, row: LongRow) -> str:
    last = lengths[max(lengths)]
    if last.peak_bytes > budget_bytes:
        return "budget"
    return "seconds" if last.seconds > row.most_seconds else "longest"
