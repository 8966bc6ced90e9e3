"""The benches of a started system: startup, overlap, rollout, publish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console

from conf.schema import RunConfig
from launch.record.startup import Startup
from launch.run.cluster import cluster
from launch.run.inputs import load_prompts
from launch.run.model_folder import load_tokenizer
from launch.run.system import System
from launch.study.bench import PROCESS_START
from launch.study.bench.overlap import bench_overlap
from launch.study.bench.publish import bench_publish
from launch.study.bench.rollout import Batches, bench_rollout
from rollout.types import Prompt


def measure_on_system(
    config: RunConfig, benches: Collection[str], *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Start a cluster and a system on it, and run the benches that need one.

    Args:
        config: The system's.
        benches: Which of "overlap", "rollout" and "publish" to run; "startup" is always measured.
        repetitions: Measured turns.
        warm_ups: Turns that do not count.

    Returns:
        By bench what it found.
    """
    seconds = {"imports_and_config": time.monotonic() - PROCESS_START}
    began = time.monotonic()
    tokenizer = load_tokenizer(config.model.path, config.model.chat_template_kwargs)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    seconds["tokenizer_and_prompts"] = time.monotonic() - began
    began = time.monotonic()
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    with cluster(config.resources):
        seconds["ray"] = time.monotonic() - began
        return asyncio.run(_measure(config, prompts, benches, seconds, counts))


async def _measure(
    config: RunConfig,
    prompts: Sequence[Prompt],
    benches: Collection[str],
    seconds: dict[str, float],
    counts: dict[str, int],
) -> dict[str, Any]:
    system = await System.create(config, prompts, Startup(console=Console(stderr=True)))
    # engine_* and learner run side by side, within side_by_side; all others follow each other.
    seconds |= system.startup_seconds | {"total": time.monotonic() - PROCESS_START}
    found: dict[str, Any] = {"startup": {"seconds": seconds}}
    batches = Batches(system, prompts)
    try:
        if "rollout" in benches:
            found["rollout"] = await bench_rollout(config, batches, **counts)
        if "publish" in benches:
            found["publish"] = await bench_publish(system, **counts)
        # Last: the cores that it gives to each part are theirs from then on.
        if "overlap" in benches:
            found["overlap"] = await bench_overlap(system, batches, **counts)
    finally:
        await system.close()
    return found
