"""What the driver takes with many engines: CPU seconds a group, and the groups a second it can do.

    driver's process:   loop, drawing, buffer, pool, admission, FLOPs, watch, metrics of a step
    scheduler's:        its actor
    engines':           answer tickets after a while, response by response

Time is simulated, so that only work takes time, and engines are as fast as `GROUPS_PER_SECOND`
asks: the more responses end at a time, the fewer messages tell of them. The processes are event
loops in one thread (`launch.study.bench.processes`). What Ray takes for each call and answer is not
in it: there is none. One garbage collector goes through the objects of all of them; whoever is at
work when it begins has it counted.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from conf.studies import BenchConfig
from cost.scheduler.actor import SchedulerActor
from cost.types import LengthReport, RewardStatus, Ticket
from launch.record.metrics import step_metrics
from launch.record.step import StepResult
from launch.run import loop
from launch.run.compute import compute_of
from launch.run.parts import Metrics, Parts, Plan
from launch.run.rewards import RewardWatch
from launch.study.bench.cpu_clock import REST, CpuClock
from launch.study.bench.processes import Process, Processes
from launch.study.simulation.system import FOREVER_SECONDS, simulated_prompts
from rollout.config import RolloutConfig
from rollout.pool import RolloutPool
from rollout.progress import Attempts
from rollout.types import GroupRef, Prompt

PROCESSES = DRIVER, SCHEDULER, ENGINES = "driver", "scheduler", "engines"
GROUPS_PER_SECOND = 1000
MOST_OF_A_CORE = 0.2
"""What the driver may take of one core at so many groups a second."""
LONGEST = 3.0
"""Of a response, times the mean of an exponential distribution, which is cut there."""
PROMPT_TOKENS = (20, 401)


class Method:
    """An actor's method, in another process."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call

    def options(self, **_: Any) -> Method:
        """Take what Ray would be told."""
        return self


class ScalingEngine:
    """A rollout actor that generates nothing: it answers after a while, and tells how far it is.

    Args:
        process: Where it works.
        observe: Takes reports in, as the scheduler does.
        mean_seconds: Of a response, were it not for the limit `LONGEST`.
        rng: Of lengths and rewards.
    """

    def __init__(
        self,
        process: Process,
        observe: Callable[[LengthReport], Any],
        mean_seconds: float,
        rng: np.random.Generator,
    ) -> None:
        self._observe, self._mean_seconds, self._rng = observe, mean_seconds, rng
        self._attempts = Attempts()
        self.start = Method(partial(process.call, self._start))
        self.progress = Method(partial(process.call, self._attempts.changed))
        self.run = Method(lambda *asked: (process.call(self._run, *asked), object()))

    async def _start(self) -> dict[str, float]:
        return {"total": 0.0}

    async def _run(self, ticket: Ticket, prompt: Prompt) -> LengthReport:
        size = ticket.num_samples
        drawn = np.sort(self._rng.exponential(size=size))
        seconds = np.minimum(drawn, LONGEST) * self._mean_seconds
        with self._attempts.attempt((ticket.ticket_id, ticket.attempt)) as done:
            for wait in np.diff(seconds, prepend=0.0):
                await asyncio.sleep(wait)
                done()
        lengths = 1 + (drawn / LONGEST * (ticket.max_tokens - 1)).astype(np.int64)
        report = LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=ticket.prompt_index,
            prompt_tokens=len(prompt.token_ids),
            prefill_tokens=len(prompt.token_ids),
            lengths=np.minimum(lengths, ticket.max_tokens),
            truncated=lengths >= ticket.max_tokens,
            rewards=(self._rng.random(size) < 0.5).astype(np.float64),
            status=np.full(size, int(RewardStatus.OK), dtype=np.int64),
            surprise=lengths * self._rng.uniform(0.1, 0.4, size),
            answer_codes=np.arange(size),
            engine_seconds=float(seconds[-1]),
            version=0,
            attempt=ticket.attempt,
        )
        await self._observe(report)
        return report


class RemoteScheduler:
    """The scheduler in its process, with the methods that the loop calls."""

    def __init__(self, process: Process, actor: SchedulerActor) -> None:
        self._process, self._actor = process, actor

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Return a method whose answer is awaited here."""
        return partial(self._process.call, getattr(self._actor, name))


class IdleLearners:
    """Learns nothing, at once."""

    async def update(self, *_: Any, **__: Any) -> Metrics:
        """Say nothing of it."""
        return {}

    async def gradient_norms(self, groups: Sequence[GroupRef], **_: Any) -> list[Any]:
        """Make norms up."""
        return [np.ones(group.report.num_responses) for group in groups]

    async def reference_kl(self, groups: Sequence[GroupRef]) -> list[Any]:
        """Find none."""
        return [np.zeros(group.report.num_responses) for group in groups]


def bench_scaling(config: BenchConfig) -> dict[str, Any]:
    """Run the loop with many engines, and say what each group took of a core.

    Returns:
        `milliseconds` of CPU a group by process; `groups_per_second` of simulated time; `targets`
        with the driver's share of a core at `GROUPS_PER_SECOND`, and `most_groups_per_second`, at
        which the driver or the scheduler takes a whole core.
    """
    settings = config.scaling
    tickets = settings.tickets_in_flight // 2
    num_groups = tickets * settings.num_steps
    sized = replace(config.scheduler, tickets_per_step=tickets)
    measured, simulated_seconds = _measure(config, sized)
    per_group = {process: measured[process] / num_groups for process in PROCESSES}
    share = per_group[DRIVER] * GROUPS_PER_SECOND
    return {
        "num_engines": settings.num_engines,
        "tickets_in_flight": 2 * tickets,
        "group_size": sized.group_size,
        "groups": num_groups,
        "groups_per_second": num_groups / simulated_seconds,
        "milliseconds": {process: 1000 * seconds for process, seconds in per_group.items()},
        "targets": {
            "driver_core_share": {
                "target": MOST_OF_A_CORE,
                "measured": share,
                "met": share <= MOST_OF_A_CORE,
            }
        },
        "most_groups_per_second": {
            process: 1 / per_group[process] for process in (DRIVER, SCHEDULER)
        },
    }


def _measure(config: BenchConfig, sized: Any) -> tuple[dict[str, float], float]:
    """Return CPU seconds by process, of all steps, and the simulated seconds that they took.

    Of all, because work on a batch begins in the steps before it.
    """
    settings, cpu = config.scaling, CpuClock()
    processes = Processes(DRIVER, (SCHEDULER, ENGINES), cpu)
    rng = np.random.default_rng(config.seed)
    tokens = rng.integers(*PROMPT_TOKENS, settings.num_prompts)
    sources, most = ["simulated"] * len(tokens), config.rollout.max_tokens
    actor = SchedulerActor(sized, tokens, sources, most, config.seed, max_staleness=1)
    scheduler: Any = RemoteScheduler(processes[SCHEDULER], actor)
    at_once = config.rollout.engine.max_num_seqs + config.rollout.max_queued_responses
    mean_seconds = settings.num_engines * at_once / (GROUPS_PER_SECOND * sized.group_size)

    def make_engine(index: int, _: RolloutConfig, __: object, seed: int) -> ScalingEngine:
        stream = np.random.default_rng([seed, index])
        return ScalingEngine(processes[ENGINES], scheduler.observe, mean_seconds, stream)

    async def run() -> None:
        rollout = replace(config.rollout, ticket_deadline_seconds=3600.0)
        pool = RolloutPool(make_engine, settings.num_engines, rollout, None, config.seed)
        watch = RewardWatch(config.rollout)
        prompts, learners = simulated_prompts(tokens), IdleLearners()
        parts = Parts(prompts, scheduler, pool, learners, _publish, watch=watch)
        plan = Plan(
            num_steps=settings.num_steps,
            num_epochs=1,
            max_staleness=1,
            batch_deadline_seconds=FOREVER_SECONDS,
            compute=compute_of(config),
        )
        # Nothing is closed: it would be Ray's actors. What listens ends with the event loop.
        await pool.start()
        # As `launch.run.training.train` does before a run.
        gc.collect()
        gc.freeze()
        cpu.take()
        cpu.turn(DRIVER)
        await loop.train(plan, parts, _on_step)
        cpu.turn(REST)

    try:
        processes.run(run())
    finally:
        gc.unfreeze()
    return cpu.take(), processes.now


async def _publish(version: int, groups: Sequence[GroupRef]) -> Metrics:
    return {}


async def _on_step(result: StepResult) -> None:
    # Of what is recorded, that which grows with the number of groups.
    step_metrics(result)
