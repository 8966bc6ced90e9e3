"""What a learner's process takes at most, beside what the plan of a run predicts.

    ZeRO stage and kind of row -> as many processes as there are learners -> peak resident bytes

Kinds are whole, checkpointed and chunked rows. Every learner takes two optimiser steps on full rows
of random tokens. On CPUs only, where a process's memory is all there is.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from conf.schema import RunConfig
from launch.record.counter import Counter
from launch.run.memory import Shape, learner_need

DEADLINE_SECONDS = 900.0


def bench_memory(config: RunConfig) -> dict[str, Any]:
    """Measure every stage with whole rows, and the configured one with the other kinds.

    Returns:
        By variant: `predicted_bytes`, `measured_bytes` (the largest of the ranks), their `ratio`,
        and the predicted `parts`.
    """
    shape = Shape.of_folder(config.model.path)
    if shape is None:
        raise ValueError(f"model.path must say its sizes in config.json, got {config.model.path!r}")
    found: dict[str, Any] = {}
    asked = dict(variants(config))
    with Counter("memory", len(asked), "variants") as counter:
        for name, variant in asked.items():
            counter.to(len(found), f"{name}, {len(found)} of {len(asked)} measured")
            need = learner_need(variant, shape, on_gpu=False)
            measured = max(_peaks(variant))
            found[name] = {
                "predicted_bytes": need.total,
                "measured_bytes": measured,
                "ratio": need.total / measured,
                "parts": dict(need.parts),
            }
    return found


def variants(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """Yield configurations by name."""
    for stage in (0, 1, 2, 3):
        if stage == 0 and config.model.dtype != "float32":
            continue
        variant = copy.deepcopy(config)
        variant.learner.zero_stage = stage
        variant.learner.gradient_checkpointing, variant.learner.chunk_tokens = False, None
        yield f"zero_{stage}_whole", variant
    stage = min(config.learner.zero_stage, 2)
    for kind in ("checkpointed", "chunked"):
        variant = copy.deepcopy(config)
        variant.learner.zero_stage = stage
        variant.learner.gradient_checkpointing = kind == "checkpointed"
        chunk = max(1, config.model.max_model_len // 4)
        variant.learner.chunk_tokens = chunk if kind == "chunked" else None
        yield f"zero_{stage}_{kind}", variant


def _peaks(config: RunConfig) -> list[int]:
    """Peak resident bytes of each learner, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = config.resources.num_learners
    with context.Pool(ranks) as pool:
        # One task each: a rank that waits for the others must not be asked for two.
        asked = [pool.apply_async(_peak, (config, rank, port)) for rank in range(ranks)]
        return [one.get(DEADLINE_SECONDS) for one in asked]


def _peak(config: RunConfig, rank: int, port: int) -> int:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(config.resources.num_learners),
        "LOCAL_SIZE": str(config.resources.num_learners),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    # All that a learner's actor imports, Ray too.
    import learner.worker  # noqa: F401
    from learner.deepspeed_engine import DeepSpeedEngine

    torch.set_num_threads(config.learner.num_threads)
    engine = DeepSpeedEngine(config.learner, config.model.path, config.numerics)
    tokens, longest = config.learner.row_tokens, config.model.max_model_len
    vocabulary = engine.model.config.vocab_size
    rng = np.random.default_rng(rank)
    positions = torch.arange(tokens) % longest
    for _ in range(2):
        row: Any = SimpleNamespace(
            token_ids=torch.from_numpy(rng.integers(0, vocabulary, tokens)),
            position_ids=positions,
            loss_mask=positions > 0,
        )
        logprobs, _ = engine.logprobs(row)
        engine.backward(logprobs.mean(), boundary=True)
        engine.step()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had since it was started (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
