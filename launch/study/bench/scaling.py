"""What the driver takes with many engines: CPU seconds a group, and the groups a second it can do.

    real:       loop, drawing, buffer, pool, admission | scheduler, in this process
    simulated:  engines that answer tickets after a while, response by response; learners

Time is simulated, so that only work takes time. What Ray takes for each call and answer is not in
it: there is none. Engines share the event loop with the driver, which has theirs in processes of
their own: what the loop takes for the same plays without a driver is measured, and taken off.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conf.studies import BenchConfig
from cost.scheduler.actor import SchedulerActor
from cost.types import LengthReport, RewardStatus, Ticket
from launch.record.step import StepResult
from launch.run import loop
from launch.run.parts import Metrics, Parts, Plan
from launch.study.bench.cpu_clock import REST, CpuClock
from launch.study.simulation import clock
from launch.study.simulation.system import FOREVER_SECONDS, LocalScheduler, simulated_prompts
from rollout.pool import LONGEST_PATIENCE_SECONDS, RolloutPool
from rollout.progress import Attempts
from rollout.types import GroupRef, Prompt

DRIVER, SCHEDULER, SIMULATION = "driver", "scheduler", "simulation"
GROUPS_PER_SECOND = 1000
MOST_OF_A_CORE = 0.2
"""What the driver may take of one core at so many groups a second."""
MEAN_SECONDS = 20.0
"""Of a response, which are exponentially distributed."""
PROMPT_TOKENS = (20, 401)


Plays = list[tuple[Ticket, Prompt]]


class Method:
    """An actor's method, in this process: it begins when it is called."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call

    def options(self, **_: Any) -> Method:
        """Take what Ray would be told."""
        return self


class ScalingEngine:
    """A rollout actor that generates nothing: it answers after a while, and tells how far it is.

    Args:
        cpu: What its work is counted by.
        observe: Takes reports in, as the scheduler does.
        rng: Of lengths and rewards.
    """

    def __init__(
        self,
        cpu: CpuClock,
        observe: Callable[[LengthReport], Coroutine[Any, Any, None]],
        rng: np.random.Generator,
    ) -> None:
        self._cpu, self._observe, self._rng = cpu, observe, rng
        self._attempts = Attempts()
        self.played: Plays = []
        self.start = Method(self._answer)
        self.run, self.progress = Method(self._run), Method(self._progress)

    def _answer(self) -> asyncio.Future[dict[str, float]]:
        answer: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()
        answer.set_result({"total": 0.0})
        return answer

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self._cpu.of(SIMULATION, work))

    def _run(self, ticket: Ticket, prompt: Prompt) -> tuple[asyncio.Task[Any], object]:
        return self._begin(self._play(ticket, prompt)), object()

    def _progress(self, known: int, patience: float) -> asyncio.Task[Any]:
        return self._begin(self._attempts.changed(known, patience))

    async def again(self, played: Plays, at_once: int, patience: float) -> None:
        """Play without a driver, but for one who listens; so many at a time."""
        left = iter(played)

        async def one_after_the_other() -> None:
            for ticket, prompt in left:
                await self._play(ticket, prompt)

        async def listen() -> None:
            known = 0
            while True:
                known, _ = await self._attempts.changed(known, patience)

        listening = asyncio.create_task(listen())
        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
        listening.cancel()

    async def _play(self, ticket: Ticket, prompt: Prompt) -> LengthReport:
        self.played.append((ticket, prompt))
        seconds = np.sort(self._rng.exponential(MEAN_SECONDS, ticket.num_samples))
        with self._attempts.attempt((ticket.ticket_id, ticket.attempt)) as done:
            for wait in np.diff(seconds, prepend=0.0):
                await asyncio.sleep(wait)
                done()
        size = ticket.num_samples
        lengths = np.minimum(1 + (10 * seconds).astype(np.int64), ticket.max_tokens)
        report = LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=ticket.prompt_index,
            prompt_tokens=len(prompt.token_ids),
            prefill_tokens=len(prompt.token_ids),
            lengths=lengths,
            truncated=lengths >= ticket.max_tokens,
            rewards=(self._rng.random(size) < 0.5).astype(np.float64),
            status=np.full(size, int(RewardStatus.OK), dtype=np.int64),
            surprise=lengths * self._rng.uniform(0.1, 0.4, size),
            answer_codes=np.arange(size),
            engine_seconds=float(seconds[-1]),
            version=0,
            attempt=ticket.attempt,
        )
        await self._cpu.of(SCHEDULER, self._observe(report))
        return report


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
        `milliseconds` of CPU a group by part, the event loop's own without what it takes for
        the simulated engines; `targets` with the driver's share of a core at
        `GROUPS_PER_SECOND`, and `most_groups_per_second`, at which the driver takes a whole core;
        the scheduler's besides, which has a process of its own.
    """
    settings = config.scaling
    tickets = settings.tickets_in_flight // 2
    sized = replace(config.scheduler, tickets_per_step=tickets)
    measured, played = clock.run(_measure(config, sized))
    measured[REST] -= clock.run(_again(played, settings.tickets_in_flight))
    num_groups = tickets * settings.num_steps
    per_group = {part: seconds / num_groups for part, seconds in measured.items()}
    # Its timers and callbacks are the driver's.
    driver = per_group[DRIVER] + per_group.get(REST, 0.0)
    share = driver * GROUPS_PER_SECOND
    return {
        "num_engines": settings.num_engines,
        "tickets_in_flight": 2 * tickets,
        "group_size": sized.group_size,
        "groups": num_groups,
        "milliseconds": {part: 1000 * seconds for part, seconds in per_group.items()},
        "targets": {
            "driver_core_share": {
                "target": MOST_OF_A_CORE,
                "measured": share,
                "met": share <= MOST_OF_A_CORE,
            }
        },
        "most_groups_per_second": {
            DRIVER: 1 / driver,
            SCHEDULER: 1 / per_group[SCHEDULER],
        },
    }


async def _measure(config: BenchConfig, sized: Any) -> tuple[dict[str, float], list[Plays]]:
    """Return CPU seconds by part, of all steps, and what engines played.

    Of all, because work on a batch begins in the steps before it.
    """
    settings, cpu = config.scaling, CpuClock()
    rng = np.random.default_rng(config.seed)
    tokens = rng.integers(*PROMPT_TOKENS, settings.num_prompts)
    actor = SchedulerActor(
        sized, tokens, ["simulated"] * len(tokens), config.rollout.max_tokens, config.seed,
        max_staleness=1,
    )  # fmt: skip
    engines: list[ScalingEngine] = []

    def make_engine(index: int, scheduler: object, seed: int) -> ScalingEngine:
        engines.append(ScalingEngine(cpu, actor.observe, np.random.default_rng([seed, index])))
        return engines[-1]

    pool = RolloutPool(
        make_engine,
        settings.num_engines,
        replace(config.rollout, ticket_deadline_seconds=3600.0),
        None,
        config.seed,
    )

    async def publish(version: int, groups: Sequence[GroupRef]) -> Metrics:
        return {}

    async def on_step(result: StepResult) -> None:
        pass

    parts = Parts(
        prompts=simulated_prompts(tokens),
        scheduler=cpu.watch(SCHEDULER, LocalScheduler(actor)),
        rollouts=pool,
        learners=cpu.watch(SIMULATION, IdleLearners()),
        publish=publish,
    )
    plan = Plan(
        num_steps=settings.num_steps,
        num_epochs=1,
        max_staleness=1,
        batch_deadline_seconds=FOREVER_SECONDS,
    )
    # As `launch.run.training.train` does before a run.
    gc.collect()
    gc.freeze()
    cpu.follow_tasks()
    cpu.take()
    try:
        await cpu.of(DRIVER, _run(pool, plan, parts, on_step))
    finally:
        gc.unfreeze()
    return cpu.take(), [engine.played for engine in engines]


async def _again(played: Sequence[Plays], in_flight: int) -> float:
    """Return the loop's own CPU seconds for what engines played, without a driver."""
    cpu = CpuClock()

    async def observe(report: LengthReport) -> None:
        pass

    cpu.follow_tasks()
    cpu.take()
    await asyncio.gather(
        *(
            cpu.of(
                SIMULATION,
                ScalingEngine(cpu, observe, np.random.default_rng(index)).again(
                    plays, -(-in_flight // len(played)), LONGEST_PATIENCE_SECONDS
                ),
            )
            for index, plays in enumerate(played)
        )
    )
    return cpu.take()[REST]


async def _run(pool: RolloutPool, plan: Plan, parts: Parts, on_step: loop.OnStep) -> None:
    # Nothing is closed: it would be Ray's actors. What still listens ends with the event loop.
    await pool.start()
    await loop.train(plan, parts, on_step)
