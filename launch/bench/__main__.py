"""Measure this machine: `python -m launch.bench [rollout|update|publish|startup|all] [overrides]`.

One JSON object on stdout, everything else on stderr. The configuration is that of
`launch.train experiment=quickstart`; overrides are hydra's, e.g. `learner.row_tokens=2048`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from conf.schema import RunConfig, register
from launch.bench import PROCESS_START
from launch.bench.timing import load_average
from launch.compose import UserError, build, run_program
from launch.inputs import load_prompts, load_tokenizer, resolve_model

BENCHES = ("rollout", "update", "publish", "startup")
ON_SYSTEM = ("rollout", "publish", "startup")
"""Benches that run on one started system; `update` runs in this process when that is closed."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bench", nargs="?", default="all", choices=(*BENCHES, "all"))
    parser.add_argument("overrides", nargs="*", help="of the training configuration, as key=value")
    parser.add_argument("--repetitions", type=int, default=5, help="measured turns of each contestant")
    parser.add_argument("--warm-ups", type=int, default=1, help="turns that do not count")
    parsed = parser.parse_args(arguments)
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
    """Send what this process and its children write to stdout to stderr, and yield the real one."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(ours, "w", encoding="utf-8") as stdout:
        try:
            yield stdout
        finally:
            sys.stdout.flush()
            os.dup2(ours, 1)


async def measure_system(config: RunConfig, parsed: argparse.Namespace) -> dict[str, Any]:
    """Start a system once and run the benches asked for on it."""
    from launch.bench.publish import bench_publish
    from launch.bench.rollout import bench_rollout
    from launch.bench.running import start_system

    counts = {"repetitions": parsed.repetitions, "warm_ups": parsed.warm_ups}
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    system, startup = await start_system(
        config, prompts, prepared_seconds=time.time() - PROCESS_START
    )
    found: dict[str, Any] = {"startup": {"seconds": startup}}
    try:
        if parsed.bench in ("rollout", "all"):
            found["rollout"] = await bench_rollout(config, system, prompts, **counts)
        if parsed.bench in ("publish", "all"):
            found["publish"] = await bench_publish(system, **counts)
    finally:
        await system.close()
    return found


def measure(parsed: argparse.Namespace) -> dict[str, Any]:
    """Run the benches asked for, in an order in which none disturbs another."""
    config = load_config(parsed.overrides)
    result: dict[str, Any] = {
        "bench": parsed.bench,
        "overrides": parsed.overrides,
        "model": config.model.path,
        "machine": {"cpus": os.cpu_count(), "load_average_before": load_average()},
    }
    if parsed.bench == "all" or parsed.bench in ON_SYSTEM:
        from launch.cluster import PlacementError

        try:
            result |= asyncio.run(measure_system(config, parsed))
        except PlacementError as error:
            raise UserError(str(error)) from error
    if parsed.bench in ("update", "all"):
        from launch.bench.update import Workload, bench_update

        result["update"] = bench_update(
            config, Workload(), repetitions=parsed.repetitions, warm_ups=parsed.warm_ups
        )
    result["machine"]["load_average_after"] = load_average()
    return result


def main() -> None:
    """Measure as the command line says."""
    parsed = parse(sys.argv[1:])

    def program() -> None:
        logging.getLogger().setLevel(logging.WARNING)
        with only_ours_on_stdout() as stdout:
            print(json.dumps(measure(parsed), indent=2), file=stdout)

    run_program(program)


if __name__ == "__main__":
    main()
