"""Measure this machine: `python -m launch.bench [BENCH] [overrides]`.

    one started system:        startup, rollout, publish
    this process, afterwards:  learner, gradient_norms, cost
    processes of their own:    long_context
    with learner:              gradient_norms and long_context as well
    all but long_context:      all, which is what is measured when no bench is named

One JSON object on stdout, everything else on stderr. The configuration is that of
`launch.train experiment=quickstart`; overrides are hydra's, e.g. `learner.row_tokens=2048`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from conf.programs import register
from conf.schema import RunConfig
from launch.program import UserError, build, run_program
from launch.run.inputs import load_prompts, load_tokenizer, resolve_model
from launch.study.bench import PROCESS_START
from launch.study.bench.timing import load_average
from rollout.types import Prompt

ON_SYSTEM = ("rollout", "publish", "startup")
BENCHES = (*ON_SYSTEM, "learner", "gradient_norms", "cost", "long_context", "all")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line: `bench`, `overrides`, `repetitions`, `warm_ups`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.bench",
        description="Measure this machine; prints one JSON object on stdout.",
    )
    parser.add_argument("bench", nargs="?", default="all", choices=BENCHES)
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, as key=value")
    parser.add_argument(
        "--repetitions", type=int, default=9, help="measured turns of each contestant"
    )
    parser.add_argument("--warm-ups", type=int, default=2, help="turns that do not count")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {parsed.repetitions}")
    if parsed.warm_ups < 0:
        parser.error(f"--warm-ups must not be negative, got {parsed.warm_ups}")
    return parsed


def load_config(overrides: Sequence[str]) -> RunConfig:
    """Compose the training configuration, the quickstart's unless an experiment is named.

    Raises:
        UserError: If it does not compose.
    """
    register()
    named = any(override.startswith("experiment=") for override in overrides)
    defaults = ["name=bench"] if named else ["experiment=quickstart", "name=bench"]
    try:
        with initialize_config_module("conf", version_base="1.3"):
            composed = compose("train", overrides=[*defaults, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from error
    composed.model.path = resolve_model(composed.model.path)
    config: RunConfig = build(composed)
    return config


@contextlib.contextmanager
def only_ours_on_stdout() -> Iterator[TextIO]:
    """Send what this process and its children write to stdout to stderr; yield the real stdout."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield stdout
        finally:
            os.dup2(stdout.fileno(), 1)


def measure(parsed: argparse.Namespace) -> dict[str, Any]:
    """Run the benches asked for, in an order in which none disturbs another."""
    config = load_config(parsed.overrides)
    counts = {"repetitions": parsed.repetitions, "warm_ups": parsed.warm_ups}
    result: dict[str, Any] = {
        "bench": parsed.bench,
        "overrides": parsed.overrides,
        "model": config.model.path,
        "machine": {"cpus": os.cpu_count(), "load_average_before": load_average()},
    }
    if parsed.bench in (*ON_SYSTEM, "all"):
        result |= measure_on_system(config, parsed)
    if parsed.bench in ("learner", "all"):
        from launch.study.bench.learner import bench_learner
        from launch.study.bench.workload import Workload

        result["learner"] = bench_learner(config, Workload(), **counts)
    if parsed.bench in ("gradient_norms", "learner", "all"):
        from launch.study.bench.gradient_norms import bench_gradient_norms
        from launch.study.bench.workload import Workload

        result["gradient_norms"] = bench_gradient_norms(config, Workload(), **counts)
    if parsed.bench in ("cost", "all"):
        from launch.study.bench.cost import POOL_ALLOCATORS, bench_cost

        pools = {
            name: load_config(
                [*parsed.overrides, f"allocator@scheduler.allocator={name}"]
            ).scheduler
            for name in POOL_ALLOCATORS
        }
        result["cost"] = bench_cost(config.scheduler, pools, **counts)
    if parsed.bench in ("long_context", "learner"):
        from launch.study.bench.long_context import LongRow, bench_long_context

        result["long_context"] = bench_long_context(
            config, LongRow.of_model(config.model.path), **counts
        )
    result["machine"]["load_average_after"] = load_average()
    return result


def measure_on_system(config: RunConfig, parsed: argparse.Namespace) -> dict[str, Any]:
    """Start a cluster and a system on it, and run the benches that need one."""
    from launch.run.cluster import cluster

    # The system's heavy imports belong to the imports of a start.
    from launch.run.system import System  # noqa: F401

    seconds = {"imports_and_config": time.time() - PROCESS_START}
    began = time.time()
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    seconds["tokenizer_and_prompts"] = time.time() - began
    began = time.time()
    with cluster(config.resources):
        seconds["ray"] = time.time() - began
        return asyncio.run(_measure_on_cluster(config, prompts, parsed, seconds))


async def _measure_on_cluster(
    config: RunConfig,
    prompts: Sequence[Prompt],
    parsed: argparse.Namespace,
    seconds: dict[str, float],
) -> dict[str, Any]:
    from rich.console import Console

    from launch.record.progress import Startup
    from launch.run.system import System
    from launch.study.bench.publish import bench_publish
    from launch.study.bench.rollout import bench_rollout

    counts = {"repetitions": parsed.repetitions, "warm_ups": parsed.warm_ups}
    system = await System.create(config, prompts, Startup(console=Console(stderr=True)))
    # engine_* and learner run side by side, within side_by_side; all others follow each other.
    seconds |= system.startup_seconds | {"total": time.time() - PROCESS_START}
    found: dict[str, Any] = {"startup": {"seconds": seconds}}
    try:
        if parsed.bench in ("rollout", "all"):
            found["rollout"] = await bench_rollout(config, system, prompts, **counts)
        if parsed.bench in ("publish", "all"):
            found["publish"] = await bench_publish(system, **counts)
    finally:
        await system.close()
    return found


def main() -> None:
    """Measure as the command line says."""
    parsed = parse(sys.argv[1:])

    def program() -> None:
        with only_ours_on_stdout() as stdout:
            print(json.dumps(measure(parsed), indent=2), file=stdout)

    run_program(program)


if __name__ == "__main__":
    main()
