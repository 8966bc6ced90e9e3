"""Long runs in simulated time: memory, work on the driver, and the run folder, step by step.

    profile -> simulated engines and learners <-> loop, scheduler, recording: those that train
    after each publish: memory, CPU seconds by part, references held -> figures

`long` has many steps, `many_prompts` a large task, `traced` tells which lines of code hold more
memory with every step. The run is that of the configuration (plugs, trackers, evaluations); only
how fast engines and learners are, and what responses look like, is made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.evaluation import HELD_OUT
from conf.studies import BenchConfig
from launch.record.progress import Startup
from launch.run.inputs import Inputs, load_tokenizer
from launch.run.training import TrainingRun
from launch.study.bench.cpu_clock import REST, CpuClock
from launch.study.bench.growth import Readings, resident_bytes
from launch.study.simulation import clock
from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.speeds import EngineSpeed, LearnerSpeed, PublishSpeed
from launch.study.simulation.system import Layout, SimulatedSystem, simulated_prompts
from launch.study.simulation.task import PromptTable, ResponseLengths, StatedPrompts

DRIVER, SCHEDULER, SIMULATION = "driver", "scheduler", "simulation"
TARGET_DRIVER_MILLISECONDS = 50.0
"""Most of the driver's own work in a step that is still little."""
NUM_HELD_OUT = 100
NUM_PLACES = 8
"""Lines of code that a traced run names."""
NEEDS_A_CLUSTER = ("ray",)
"""Trackers that cannot be opened without one."""


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
        learner=LearnerSpeed(token_seconds=1e-4, row_tokens=4096),
        publish=PublishSpeed(seconds=0.1),
    )  # fmt: skip


def bench_endurance(config: BenchConfig) -> dict[str, Any]:
    """Measure the runs that `config.endurance` asks for.

    Returns:
        By run its figures: memory of this process in bytes, CPU milliseconds of a step by part,
        references of groups that somebody held, bytes of the run folder by file.
    """
    settings = config.endurance
    found = {"long": _measured(config, settings.num_steps, settings.num_prompts)}
    if settings.traced_steps:
        found["traced"] = _traced(config, settings.traced_steps, settings.num_prompts)
    if settings.many_steps:
        found["many_prompts"] = _measured(config, settings.many_steps, settings.many_prompts)
    return found


def _measured(config: BenchConfig, num_steps: int, num_prompts: int) -> dict[str, Any]:
    with _long_run(config, num_steps, num_prompts) as run:
        run.go()
        return run.figures()


def _traced(config: BenchConfig, num_steps: int, num_prompts: int) -> dict[str, Any]:
    tracemalloc.start()
    try:
        with _long_run(config, num_steps, num_prompts, traced=True) as run:
            run.go()
            return {
                "num_steps": num_steps,
                "traced": run.readings.memory("traced"),
                "places": run.places(),
            }
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def _long_run(
    config: BenchConfig, num_steps: int, num_prompts: int, *, traced: bool = False
) -> Iterator[LongRun]:
    """Make a run in a folder that is there for as long as it is looked at; it says nothing."""
    profile = profile_of(num_prompts, config.rollout.max_tokens)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        # Also for the lines that the console's tracker prints, one a step.
        trackers = {k: v for k, v in config.tracker.items() if k not in NEEDS_A_CLUSTER}
        loop = replace(config.loop, num_steps=num_steps, save_final=False)
        own = replace(config, run_dir=folder, loop=loop, tracker=trackers)
        yield LongRun(own, profile, traced=traced)


class LongRun:
    """One training run on a simulated system, looked at after every publish.

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
        self.readings = Readings(config.loop.num_steps, Path(config.run_dir))
        self._snapshots: list[tuple[int, tracemalloc.Snapshot]] = []
        self._seconds = 0.0

    def go(self) -> None:
        """Run it to its end."""
        began = time.monotonic()
        clock.run(self._run())
        self._seconds = time.monotonic() - began

    async def _run(self) -> None:
        cpu = CpuClock()
        system = SimulatedSystem(self._profile, self._table, self._config.scheduler, self._layout())
        cpu.follow_tasks()
        # Reports go to the scheduler from within the pool, and count for the scheduler too.
        for name, part in (
            ("scheduler", SCHEDULER),
            ("rollouts", SIMULATION),
            ("learners", SIMULATION),
        ):
            setattr(system, name, cpu.watch(part, getattr(system, name)))
        publish = system.publish
        self.readings.expect(
            "resident", "references", "traced", "elapsed", "all_threads",
            *(DRIVER, SCHEDULER, SIMULATION, REST),
        )  # fmt: skip
        times = {"elapsed": time.perf_counter, "all_threads": time.process_time}
        last = {name: read() for name, read in times.items()}

        async def published(version: int) -> dict[str, float]:
            metrics = await cpu.of(SIMULATION, publish(version))
            # Taken as a part of the simulation, though what is read is of the step before.
            before = cpu.turn(SIMULATION)
            self._take(cpu, system, {name: read() - last[name] for name, read in times.items()})
            last.update({name: read() for name, read in times.items()})
            cpu.turn(before)
            return metrics

        system.publish = published  # type: ignore[method-assign]
        prompts = simulated_prompts(self._table.tokens)
        inputs = Inputs(
            config=self._config,
            resolved={},
            tokenizer=load_tokenizer(self._config.model.path),
            prompts=prompts,
            sets={HELD_OUT: prompts[:NUM_HELD_OUT]},
        )
        run = TrainingRun(inputs, system, began=time.time(), quiet=True)  # type: ignore[arg-type]
        try:
            await cpu.of(DRIVER, run.run(Startup(quiet=True)))
        finally:
            system.close()

    def _take(self, cpu: CpuClock, system: SimulatedSystem, times: dict[str, float]) -> None:
        figures = dict.fromkeys((DRIVER, SCHEDULER, SIMULATION, REST), 0.0) | cpu.take() | times
        num_steps = self._config.loop.num_steps
        if self._traced:
            if self.readings.num_taken + 1 in (num_steps // 2, num_steps):
                gc.collect()
                self._snapshots.append((self.readings.num_taken, tracemalloc.take_snapshot()))
            figures["traced"] = float(tracemalloc.get_traced_memory()[0])
        figures["resident"] = float(resident_bytes())
        figures["references"] = float(system.groups.num_alive)
        self.readings.take(figures)

    def _layout(self) -> Layout:
        config = self._config
        return Layout(
            num_engines=config.resources.num_engines,
            num_learners=config.resources.num_learners,
            num_accelerators=config.resources.num_engines + config.resources.num_learners,
            num_steps=config.loop.num_steps,
            max_staleness=config.loop.max_staleness,
            num_epochs=config.learner.num_epochs,
            num_minibatches=config.learner.num_minibatches,
            max_retries=config.rollout.max_retries,
            seed=config.seed,
        )

    def figures(self) -> dict[str, Any]:
        """Return what the run came to."""
        readings, scheduler = self.readings, self._config.scheduler
        parts = (DRIVER, SCHEDULER, SIMULATION, REST, "all_threads", "elapsed")
        work = {part: _milliseconds(readings.spread(part)) for part in parts}
        median = work[DRIVER]["median"]
        return {
            "num_steps": readings.num_taken,
            "num_prompts": len(self._table.tokens),
            "tickets": scheduler.tickets_per_step,
            "group_size": scheduler.group_size,
            "seconds": self._seconds,
            "resident": readings.memory("resident"),
            "references": readings.spread("references"),
            "cpu_milliseconds": work,
            "driver_target": {
                "target_milliseconds": TARGET_DRIVER_MILLISECONDS,
                "met": median <= TARGET_DRIVER_MILLISECONDS,
            },
            "run_folder": readings.files(),
        }

    def places(self) -> list[dict[str, Any]]:
        """Return the lines that hold most more at the end than in the middle, largest first."""
        if len(self._snapshots) < 2:
            return []
        (first, before), (last, after) = self._snapshots[-2:]
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


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: 1000 * value for name, value in seconds.items()}
