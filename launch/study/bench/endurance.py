"""Long runs in simulated time: memory, work of the process, and the run folder, step by step.

    profile -> simulated engines and learners <-> loop, scheduler, recording: those that train
    after each publish: memory, CPU seconds, references held -> figures

`long` has many steps, `many_prompts` a large task, `traced` tells which lines of code hold more
memory with every step, and `cluster` has the actors, of which only engines and learners make things
up. The run is that of the configuration: plugs, trackers, evaluations. How fast engines and
learners are, and what responses look like, is stated here. Whose work it is tells
`launch.study.bench.scaling`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.evaluation import HELD_OUT
from conf.studies import BenchConfig
from launch.record.startup import Startup
from launch.run.inputs import Inputs
from launch.run.model_folder import load_tokenizer
from launch.run.training import TrainingRun
from launch.study.bench.growth import Readings, memory_of_tree, resident_bytes
from launch.study.simulation import clock
from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.speeds import EngineSpeed, LearnerSpeed, PublishSpeed
from launch.study.simulation.system import Layout, SimulatedSystem, simulated_prompts
from launch.study.simulation.task import PromptTable, ResponseLengths, StatedPrompts
from rollout.types import GroupRef

CLOCKS = {"cpu": time.process_time, "elapsed": time.perf_counter}
"""CPU seconds of this process with all its threads, the simulation among it, and seconds."""
NUM_HELD_OUT = 100
NUM_PLACES = 8
"""Lines of code that a traced run names."""
NEED_RAY = ("ray",)
"""Trackers that cannot be opened without a cluster."""


def profile_of(num_prompts: int, max_tokens: int) -> Profile:
    """Return a task of prompts that differ in length and difficulty, on one engine and learner."""
    return Profile(
        source="stated: a task for long runs",
        accelerator="simulated",
        max_tokens=max_tokens,
        surprise_per_token=0.03,
        prompts=StatedPrompts(
            num_prompts=num_prompts, tokens=60.0, tokens_log_sd=0.5, mean_tokens=0.4 * max_tokens,
            mean_tokens_log_sd=0.5, pass_rate=0.4, logit_sd=1.5, logit_length_correlation=-0.5,
        ),
        lengths=ResponseLengths(log_sd=0.4),
        learning=LearningLaw(gain_logits=0.0, noise_responses=100.0),
        engine=EngineSpeed(
            max_num_seqs=4096, step_seconds=0.01, sequence_seconds=1e-5, prefill_token_seconds=1e-5
        ),
        learner=LearnerSpeed(token_seconds=1e-4),
        publish=PublishSpeed(seconds=0.1),
    )  # fmt: skip


def bench_endurance(config: BenchConfig) -> dict[str, Any]:
    """Measure the runs that `config.endurance` asks for.

    Returns:
        By run its figures: memory in bytes, milliseconds of a step by clock, references of
        groups that somebody held, bytes of the run folder by file.
    """
    settings = config.endurance
    found = {"long": _simulated(config, settings.num_steps, settings.num_prompts)}
    if settings.traced_steps:
        found["traced"] = _traced(config, settings.traced_steps, settings.num_prompts)
    if settings.many_steps:
        found["many_prompts"] = _simulated(config, settings.many_steps, settings.many_prompts)
    if settings.cluster_steps:
        found["cluster"] = _on_cluster(config, settings.cluster_steps, settings.num_prompts)
    return found


def _simulated(config: BenchConfig, num_steps: int, num_prompts: int) -> dict[str, Any]:
    with long_run(config, num_steps, num_prompts) as run:
        clock.run(run.simulated())
        return run.figures()


def _traced(config: BenchConfig, num_steps: int, num_prompts: int) -> dict[str, Any]:
    tracemalloc.start()
    try:
        with long_run(config, num_steps, num_prompts, traced=True) as run:
            clock.run(run.simulated())
            return {
                "num_steps": num_steps,
                "memory": run.readings.growth("traced"),
                "places": run.places(),
            }
    finally:
        tracemalloc.stop()


def _on_cluster(config: BenchConfig, num_steps: int, num_prompts: int) -> dict[str, Any]:
    from launch.run.cluster import cluster

    with cluster(config.resources), long_run(config, num_steps, num_prompts, on_ray=True) as run:
        asyncio.run(run.on_cluster())
        return run.figures()


@contextlib.contextmanager
def long_run(
    config: BenchConfig,
    num_steps: int,
    num_prompts: int,
    *,
    traced: bool = False,
    on_ray: bool = False,
) -> Iterator[LongRun]:
    """Make a run in a folder that is there for as long as it is looked at; it says nothing."""
    profile = profile_of(num_prompts, config.rollout.max_tokens)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        trackers = {k: v for k, v in config.tracker.items() if on_ray or k not in NEED_RAY}
        own = replace(
            config,
            run_dir=folder,
            loop=replace(config.loop, num_steps=num_steps, save_final=False),
            parity=replace(config.parity, every=0),
            tracker=trackers,
        )
        yield LongRun(own, profile, traced=traced)


class LongRun:
    """One training run, looked at after every publish.

    Args:
        config: The run.
        profile: What is simulated.
        traced: Whether memory is traced, for `places`.
    """

    def __init__(self, config: BenchConfig, profile: Profile, *, traced: bool) -> None:
        self._config = config
        self._profile = profile
        self._traced = traced
        self._table: PromptTable = profile.prompts.table(config.seed)
        self._prompts = simulated_prompts(self._table.tokens)
        self._clocks = dict.fromkeys(CLOCKS, 0.0)
        self.readings = Readings(config.loop.num_steps, Path(config.run_dir))
        self._snapshots: list[tuple[int, tracemalloc.Snapshot]] = []

    async def simulated(self) -> None:
        """Run on engines and learners that only keep time, with the scheduler in this process."""
        layout = layout_of(self._config)
        system = SimulatedSystem(self._profile, self._table, self._config.scheduler, layout)
        try:
            await self._train(system, lambda: system.groups.num_alive)
        finally:
            system.close()

    async def on_cluster(self) -> None:
        """Run on Ray's actors, of which engines and learners make everything up at once."""
        from launch.study.bench import timekeeping

        system = await timekeeping.start(self._config, self._profile, self._prompts)
        try:
            await self._train(system, timekeeping.num_references)
        finally:
            await system.close()

    async def _train(self, system: Any, num_references: Callable[[], int]) -> None:
        publish = system.publish

        async def published(version: int, groups: Sequence[GroupRef]) -> Any:
            metrics = await publish(version, groups)
            self._take(num_references)
            # Not the time that looking took.
            self._lap()
            return metrics

        system.publish = published
        inputs = Inputs(
            config=self._config,
            resolved={},
            tokenizer=load_tokenizer(
                self._config.model.path, self._config.model.chat_template_kwargs
            ),
            prompts=self._prompts,
            sets={HELD_OUT: self._prompts[:NUM_HELD_OUT]},
            about={},
        )
        run = TrainingRun(inputs, system, began=time.monotonic(), quiet=True)
        # As `launch.run.training.train` does before it runs one.
        gc.collect()
        gc.freeze()
        self._lap()
        try:
            await run.run(Startup(quiet=True))
        finally:
            gc.unfreeze()

    def _take(self, num_references: Callable[[], int]) -> None:
        figures = self._lap()
        step, num_steps = self.readings.num_taken + 1, self._config.loop.num_steps
        if self._traced:
            if step in (num_steps // 2, num_steps):
                gc.collect()
                self._snapshots.append((step, tracemalloc.take_snapshot()))
            figures["traced"] = float(tracemalloc.get_traced_memory()[0])
        figures["memory/driver"] = float(resident_bytes())
        below = memory_of_tree(os.getpid())
        figures |= {f"memory/{name}": value for name, value in below.items()}
        self.readings.take({**figures, "references": float(num_references())})

    def _lap(self) -> dict[str, float]:
        now = {name: read() for name, read in CLOCKS.items()}
        last, self._clocks = self._clocks, now
        return {name: now[name] - last[name] for name in now}

    def figures(self) -> dict[str, Any]:
        """Return what the run came to."""
        readings = self.readings
        seconds = {name: readings.spread(name) for name in CLOCKS}
        memory = [name for name in readings.names if name.startswith("memory/")]
        return {
            "num_steps": readings.num_taken,
            "num_prompts": len(self._prompts),
            "tickets": self._config.scheduler.tickets_per_step,
            "group_size": self._config.scheduler.group_size,
            "memory": {name.removeprefix("memory/"): readings.growth(name) for name in memory},
            "references": readings.spread("references"),
            "milliseconds": {
                name: {key: 1000 * value for key, value in spread.items()}
                for name, spread in seconds.items()
            },
            "run_folder": readings.files(),
        }

    def places(self) -> list[dict[str, Any]]:
        """Return the lines that hold most more at the end than in the middle, largest first."""
        if len(self._snapshots) < 2:
            return []
        (first, before), (last, after) = self._snapshots
        own = [tracemalloc.Filter(False, tracemalloc.__file__)]
        changes = after.filter_traces(own).compare_to(before.filter_traces(own), "lineno")
        return [
            {
                "place": str(change.traceback),
                "bytes_per_step": change.size_diff / (last - first),
                "pieces_per_step": change.count_diff / (last - first),
            }
            for change in sorted(changes, key=lambda one: -one.size_diff)[:NUM_PLACES]
        ]


def layout_of(config: BenchConfig) -> Layout:
    """Return the machine and loop of a run."""
    resources = config.resources
    return Layout(
        num_engines=resources.num_engines,
        num_learners=resources.num_learners,
        num_accelerators=resources.num_engines + resources.num_learners,
        num_steps=config.loop.num_steps,
        max_staleness=config.loop.max_staleness,
        num_epochs=config.learner.num_epochs,
        num_minibatches=config.learner.num_minibatches,
        max_retries=config.rollout.max_retries,
        seed=config.seed,
    )
