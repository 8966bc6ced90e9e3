"""A real system for the benches that need one: scheduler, engine, learner, weights at version 0."""

from __future__ import annotations

import time
from collections.abc import Sequence

from conf.schema import RunConfig
from launch.bench import PROCESS_START
from launch.system import System
from rollout.types import Prompt


async def start_system(
    config: RunConfig, prompts: Sequence[Prompt], *, prepared_seconds: float
) -> tuple[System, dict[str, float]]:
    """Start Ray and everything on it.

    Args:
        config: The run's configuration.
        prompts: The task.
        prepared_seconds: What imports and preparation took since the process began.

    Returns:
        The running system and the seconds of every part of the start. `ray` to `self_test` follow
        each other; `engine_*` and `learner_total` run side by side within `side_by_side`.
    """
    from launch.cluster import connect

    began = time.time()
    connect(config.resources)
    connected = time.time()
    system = await System.create(config, prompts)
    return system, {
        "imports_and_prompts": prepared_seconds,
        "ray": connected - began,
        **system.startup_seconds,
        "total": time.time() - PROCESS_START,
    }
