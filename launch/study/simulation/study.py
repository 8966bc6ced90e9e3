"""One configuration in simulated time: the scheduler, buffer and loop that train, unchanged.

profile, scheduler, layout -> launch.run.loop.train on simulated engines and learners -> Outcome
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cost.scheduler.config import SchedulerConfig
from launch.record.metrics import step_metrics
from launch.record.step import StepResult
from launch.run.loop import train
from launch.run.parts import Parts, Plan
from launch.study.simulation import clock
from launch.study.simulation.pool import SimulatedPool
from launch.study.simulation.profile import Profile
from launch.study.simulation.system import (
    FOREVER_SECONDS,
    Layout,
    SimulatedSystem,
    simulated_prompts,
)


@dataclass(frozen=True, slots=True)
class Step:
    """What was there after a step; seconds and counters since the start.

    Made without arguments it is of the moment before the first.
    """

    seconds: float = 0.0
    engine_busy_seconds: float = 0.0
    """Of all engines together."""
    sequence_seconds: float = 0.0
    """Seconds that sequences ran, added up over engines."""
    learner_busy_seconds: float = 0.0
    """Of the learners, who compute together."""
    wait_seconds: float = 0.0
    update_seconds: float = 0.0
    publish_seconds: float = 0.0
    generate_seconds: float = 0.0
    generated_tokens: float = 0.0
    """Prefilled and response tokens, from the scheduler's ledger."""
    trained_tokens: float = 0.0
    """Of kept responses with their prompts, from the ledger."""
    staleness_mean: float = 0.0
    """Of the batch's groups."""
    staleness_max: float = 0.0
    batch_pass_rate: float = 0.0
    """Of the batch's responses."""
    pass_rate: float = 0.0
    """Mean over prompts, of the version published by the step."""
    gained_logits: float = 0.0
    num_failures: int = 0
    """Of engines."""
    num_retries: int = 0
    """Of tickets."""
    metrics: dict[str, float] = field(default_factory=dict)
    """As a real run logs them; see `launch.record.metrics`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A simulated run."""

    layout: Layout
    start: Step
    """Of the moment before the first step."""
    steps: list[Step]
    response_tokens: int
    """That engines gave in finished groups."""
    prefill_tokens: int
    """Of the same groups."""
    lost_tokens: float
    """Response tokens that died with engines."""
    decode_steps: float
    """Of all engines together."""
    failed_tickets: int


def simulate(
    profile: Profile,
    scheduler: SchedulerConfig,
    layout: Layout,
    *,
    warm_up: int = 0,
    say: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Run one configuration.

    Args:
        profile: What is simulated.
        scheduler: As in training.
        layout: The machine and the loop.
        warm_up: Steps in which the pipeline fills before the first that counts; as many again are
            run after the last, so that generation goes on to the end.
        say: Called with the number of every step that is over.

    Returns:
        The steps from the first that counts, `layout.num_steps` of them.
    """
    return clock.run(_simulate(profile, scheduler, layout, warm_up, say))


async def _simulate(
    profile: Profile,
    scheduler: SchedulerConfig,
    layout: Layout,
    warm_up: int,
    say: Callable[[int], None],
) -> Outcome:
    table = profile.prompts.table(layout.seed)
    system = SimulatedSystem(profile, table, scheduler, layout)
    loop = asyncio.get_running_loop()
    steps: list[Step] = [Step(pass_rate=system.policy.pass_rate(0))]

    async def on_step(result: StepResult) -> None:
        system.rollouts.count_up()
        ledger = await system.scheduler.call("metrics")
        steps.append(_step(result, ledger, system, loop.time()))
        say(result.step)

    try:
        await train(
            Plan(
                num_steps=layout.num_steps + 2 * warm_up,
                num_epochs=layout.num_epochs,
                max_staleness=layout.max_staleness,
                batch_deadline_seconds=FOREVER_SECONDS,
                num_engine_accelerators=layout.num_engines * profile.engine.accelerators,
                num_learners=layout.num_learners,
                gradient_norm_layer=scheduler.gradient_norm_layer,
                calibrate_every=scheduler.calibrate_every,
            ),
            Parts(
                prompts=simulated_prompts(table.tokens),
                scheduler=system.scheduler,
                rollouts=system.rollouts,
                learners=system.learners,
                publish=system.publish,
            ),
            on_step,
        )
    finally:
        system.close()
    ledger = await system.scheduler.call("metrics")
    counted = steps[warm_up : warm_up + 1 + layout.num_steps]
    return _outcome(layout, counted, system.rollouts, int(ledger["cost/failed_tickets"]))


def _step(
    result: StepResult, ledger: dict[str, float], system: SimulatedSystem, seconds: float
) -> Step:
    engines, policy = system.rollouts.engines, system.policy
    version, metrics = result.step, result.metrics
    rewards = [report.rewards for report in result.reports if report.num_responses]
    stale = [version - 1 - r.version for r in result.reports if r.num_responses]
    return Step(
        seconds=seconds,
        engine_busy_seconds=sum(engine.busy_seconds for engine in engines),
        sequence_seconds=sum(engine.sequence_seconds for engine in engines),
        learner_busy_seconds=system.learners.busy_seconds,
        wait_seconds=metrics["loop/wait_seconds"],
        update_seconds=metrics["loop/update_seconds"],
        publish_seconds=metrics["loop/publish_seconds"],
        generate_seconds=metrics["loop/generate_seconds"],
        generated_tokens=ledger["cost/generated_tokens"],
        trained_tokens=ledger["cost/trained_tokens"],
        staleness_mean=float(np.mean(stale)) if stale else 0.0,
        staleness_max=float(max(stale, default=0)),
        batch_pass_rate=float(np.mean(np.concatenate(rewards))) if rewards else math.nan,
        pass_rate=policy.pass_rate(version),
        gained_logits=policy.gained(version),
        num_failures=system.rollouts.num_failures,
        num_retries=system.rollouts.num_retries,
        metrics=ledger | step_metrics(result) | metrics,
    )


def _outcome(
    layout: Layout, steps: list[Step], pool: SimulatedPool, failed_tickets: int
) -> Outcome:
    """Sum up; the first of the steps is the moment before those that count."""
    return Outcome(
        layout=layout,
        start=steps[0],
        steps=steps[1:],
        response_tokens=sum(engine.response_tokens for engine in pool.engines),
        prefill_tokens=sum(engine.prefill_tokens for engine in pool.engines),
        lost_tokens=sum(engine.lost_tokens for engine in pool.engines),
        decode_steps=sum(engine.steps for engine in pool.engines),
        failed_tickets=failed_tickets,
    )
