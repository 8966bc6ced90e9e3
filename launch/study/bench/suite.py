"""The benches by name, in an order in which none disturbs another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from conf.studies import BenchConfig
from launch.study.bench.timing import load_average

TIMED = ("learner", "kernels", "gradient_norms", "long_context", "turns", "rewards")
"""Benches that take the configuration and how often."""


def measure(config: BenchConfig) -> dict[str, Any]:
    """Run the benches asked for.

    Returns:
        What can be written as JSON: settings, the machine, and by bench what it found.
    """
    repetitions, warm_ups = config.repetitions, config.warm_ups
    benches = config.expanded()
    if "peer" in benches:
        from launch.study.bench.peer import bench_peer, plan

        # What it refuses no other bench is to run before.
        planned = plan(HydraConfig.get().overrides.task, Path(config.run_dir))
    result: dict[str, Any] = {
        "benches": config.benches,
        "repetitions": repetitions,
        "warm_ups": warm_ups,
        "model": config.model.path,
        "machine": {"cpus": os.cpu_count(), "load_average_before": load_average()},
    }
    if {"startup", "overlap", "rollout", "publish"} & benches:
        from launch.study.bench.system import measure_on_system

        result |= measure_on_system(config, benches, repetitions=repetitions, warm_ups=warm_ups)
    for name in TIMED:
        if name in benches:
            result[name] = _timed(name)(config, repetitions=repetitions, warm_ups=warm_ups)
    if "cost" in benches:
        from launch.study.bench.cost import bench_cost

        result["cost"] = bench_cost(config.scheduler, repetitions=repetitions, warm_ups=warm_ups)
    if "memory" in benches:
        from launch.study.bench.memory import bench_memory

        result["memory"] = bench_memory(config)
    if "endurance" in benches:
        from launch.study.bench.endurance import bench_endurance

        result["endurance"] = bench_endurance(config)
    if "scaling" in benches:
        from launch.study.bench.scaling import bench_scaling

        result["scaling"] = bench_scaling(config)
    if "peer" in benches:
        result["peer"] = bench_peer(planned)
    result["machine"]["load_average_after"] = load_average()
    return result


def _timed(name: str) -> Callable[..., dict[str, Any]]:
    """Return one of `TIMED`; each loads what the others have no need of."""
    if name == "learner":
        from launch.study.bench.learner import bench_learner

        return bench_learner
    if name == "kernels":
        from launch.study.bench.kernels import bench_kernels

        return bench_kernels
    if name == "gradient_norms":
        from launch.study.bench.gradient_norms import bench_gradient_norms

        return bench_gradient_norms
    if name == "long_context":
        from launch.study.bench.long_context import bench_long_context

        return bench_long_context
    if name == "rewards":
        from launch.study.bench.rewards import bench_rewards

        return bench_rewards
    from launch.study.bench.turns import bench_turns

    return bench_turns
