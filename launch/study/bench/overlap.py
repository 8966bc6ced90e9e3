"""Seconds of a step whose generation and learning go on at once, over the longer of them alone.

    generation   the tickets of a batch through the actors; the learners are idle
    learning     selection, update and publish of a batch before; the engines are idle
    both         at once, as the loop has them at `max_staleness=1`: the same tickets once more,
                 and the next of the batches before

On CPUs engines and learners are given cores of their own, half of them each, or the ratio would
tell how many cores there are. The scheduler and this process run where there is room. A batch's
check of parity is waited for outside the clock: in a loop it goes on beside what comes next.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from cost.types import Feedback
from launch.run.system import System
from launch.study.bench.rollout import Batches, Generated
from launch.study.bench.timing import ratio_of_medians, turns
from rollout.processes import command, descendants

PARTS = {"engines": "ray::RolloutActor", "learners": "ray::LearnerWorker"}
"""How the processes call themselves below which all of a part's are."""
WAYS = ("generation", "learning", "both")


@dataclass(frozen=True, slots=True)
class Step:
    """One turn: how long it took, and the tokens that were generated in it."""

    seconds: float
    tokens: int


class Steps:
    """Generates batches and learns from the one before, each alone or both at once.

    Args:
        system: Where.
        batches: The system's own.
    """

    def __init__(self, system: System, batches: Batches) -> None:
        self._system, self._batches = system, batches
        self._ahead: list[Generated] = []

    async def take(self, way: str) -> Step:
        """Take a turn, one of `WAYS` in their order; what is learned was generated before."""
        if way == "generation":
            # For the turns to come, off the clock.
            while len(self._ahead) < len(WAYS) - 1:
                self._ahead.append(await self._batches.generate())
        given = None if way == "generation" else self._ahead.pop(0)
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            generating = None if way == "learning" else tasks.create_task(self._generate(way))
            if given is not None:
                tasks.create_task(self._learn(given))
        seconds = time.monotonic() - began
        await self._system.checked()
        if generating is None:
            return Step(seconds, 0)
        self._ahead.append(generating.result())
        return Step(seconds, generating.result().num_tokens)

    async def _generate(self, way: str) -> Generated:
        if way == "generation":
            return await self._batches.generate()
        # What it gave the first time is not learned.
        return await self._batches.again(self._ahead.pop())

    async def _learn(self, given: Generated) -> None:
        system, batch, groups = self._system, given.batch, given.groups
        selections = await system.scheduler.select(batch, [g.report.attempt for g in groups])
        await system.learners.update(groups, selections, step=batch, epoch=0, progress=0.0)
        await system.scheduler.learned(batch, Feedback(engine_seconds=0.0, learner_seconds=0.0))
        self._batches.num_done = batch + 1
        await system.publish(system.version + 1, groups)


async def bench_overlap(
    system: System, batches: Batches, *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Measure all three in turns.

    Returns:
        Seconds of each, the `ratio` of both over the `longer` alone, and the `cores` of the parts,
        None where they cannot be had.
    """
    cores = pin()
    steps = Steps(system, batches)
    measured: dict[str, list[Step]] = {way: [] for way in WAYS}
    for turn in turns(WAYS, repetitions=repetitions, warm_ups=warm_ups):
        step = await steps.take(turn.contestant)
        if turn.measured:
            measured[turn.contestant].append(step)
    return {"cores": cores, **figures(measured)}


def figures(measured: dict[str, list[Step]]) -> dict[str, Any]:
    """Hold both at once against the longer alone.

    Args:
        measured: Turns of each of `WAYS`, as many of all.
    """
    seconds = {way: [step.seconds for step in steps] for way, steps in measured.items()}
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    longer = max(WAYS[:2], key=lambda way: medians[way])
    return {
        "median_seconds": medians,
        "median_tokens": {
            way: statistics.median(step.tokens for step in measured[way])
            for way in ("generation", "both")
        },
        "longer": longer,
        **ratio_of_medians(seconds["both"], seconds[longer]),
        "repetitions": {way: [asdict(step) for step in steps] for way, steps in measured.items()},
    }


def pin() -> dict[str, list[int]] | None:
    """Give the processes of engines and of learners on this machine cores of their own.

    Returns:
        Which; None if there is but one core, or they run on other machines or on GPUs.
    """
    cores = sorted(os.sched_getaffinity(0))
    below = descendants(os.getpid())
    heads = {
        part: [process.pid for process in below if command(process.pid).startswith(title)]
        for part, title in PARTS.items()
    }
    on_gpu = bool(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
    if len(cores) < 2 or on_gpu or not all(heads.values()):
        return None
    half = len(cores) // 2
    shares = {"engines": cores[:half], "learners": cores[half:]}
    for part, share in shares.items():
        for head in heads[part]:
            _confine([head, *(process.pid for process in descendants(head))], share)
    return shares


def _confine(pids: Sequence[int], cores: Sequence[int]) -> None:
    """Keep every thread of some processes to these cores; later ones inherit them."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("[0-9]*"):
            try:
                os.sched_setaffinity(int(thread.name), cores)
            except ProcessLookupError:
                continue
