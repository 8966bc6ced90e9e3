"""One configuration in simulated time: the scheduler, buffer and loop that train, unchanged.

profile, scheduler, layout -> launch.run.loop.train on simulated engines and learners -> Outcome
"""

import asyncio
import math
from dataclasses import dataclass, field

import numpy as np

from cost.scheduler.actor import SchedulerActor
from cost.scheduler.config import SchedulerConfig
from launch.record.metrics import step_metrics
from launch.record.step import StepResult
from launch.run.loop import train
from launch.run.parts import Parts, Plan
from launch.study.simulation import clock
from launch.study.simulation.learners import SharedCores, SimulatedLearners, SimulatedPublisher
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.pool import SimulatedPool
from launch.study.simulation.profile import Profile
from launch.study.simulation.task import PromptTable
from rollout.types import Prompt

FOREVER_SECONDS = 1e9
"""Deadlines are no part of the study."""
COLOCATED_SLOWDOWN = 2.0
"""Engine and learner on the same accelerators get half of them each while both compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many engines and learners, and how the loop runs."""

    num_engines: int
    num_learners: int
    num_accelerators: int
    colocated: bool = False
    """Engines and learners use the same accelerators."""
    num_steps: int
    max_staleness: int
    num_epochs: int = 1
    num_minibatches: int = 1
    prefix_caching: bool = True
    update_mode: str = "recompute"
    max_retries: int = 2
    seed: int = 0


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
    num_failures: int
    num_retries: int
    failed_tickets: int


def simulate(
    profile: Profile, scheduler: SchedulerConfig, layout: Layout, *, warm_up: int = 0
) -> Outcome:
    """Run one configuration.

    Args:
        profile: What is simulated.
        scheduler: As in training.
        layout: The machine and the loop.
        warm_up: Steps in which the pipeline fills before the first that counts; as many again are
            run after the last, so that generation goes on to the end.

    Returns:
        The steps from the first that counts, `layout.num_steps` of them.
    """
    return clock.run(_simulate(profile, scheduler, layout, warm_up))


async def _simulate(
    profile: Profile, scheduler_config: SchedulerConfig, layout: Layout, warm_up: int
) -> Outcome:
    table = profile.prompts.table(layout.seed)
    num_steps = layout.num_steps + 2 * warm_up
    scheduler = _scheduler(scheduler_config, profile, layout, table)
    cores = _cores(profile, layout)
    policy = SimulatedPolicy(profile, table, layout.seed)
    pool = SimulatedPool(
        profile.engine,
        layout.num_engines,
        policy,
        scheduler.observe,
        max_retries=layout.max_retries,
        seed=layout.seed,
        prefix_caching=layout.prefix_caching,
        update_mode=layout.update_mode,
        on_busy=cores.on_busy,
    )
    cores.attach(pool)
    learners = SimulatedLearners(
        profile.learner, layout.num_learners, layout.num_minibatches, policy, cores
    )
    loop = asyncio.get_running_loop()
    steps: list[Step] = [Step(pass_rate=policy.pass_rate(0))]

    async def on_step(result: StepResult) -> None:
        pool.count_up()
        ledger = await scheduler.metrics()
        steps.append(_step(result, ledger, pool, learners, policy, loop.time()))

    try:
        await train(
            Plan(
                num_steps=num_steps,
                num_epochs=layout.num_epochs,
                max_staleness=layout.max_staleness,
                batch_deadline_seconds=FOREVER_SECONDS,
                num_engine_accelerators=layout.num_engines * profile.engine.accelerators,
                num_learners=layout.num_learners,
                gradient_norm_layer=scheduler_config.gradient_norm_layer,
                calibrate_every=scheduler_config.calibrate_every,
            ),
            Parts(
                prompts=[_prompt(index, int(tokens)) for index, tokens in enumerate(table.tokens)],
                scheduler=scheduler,
                rollouts=pool,
                learners=learners,
                publish=SimulatedPublisher(profile.publish, pool).publish,
            ),
            on_step,
        )
    finally:
        pool.close()
    ledger = await scheduler.metrics()
    counted = steps[warm_up : warm_up + 1 + layout.num_steps]
    return _outcome(layout, counted, pool, int(ledger["cost/failed_tickets"]))


def _scheduler(
    config: SchedulerConfig, profile: Profile, layout: Layout, table: PromptTable
) -> SchedulerActor:
    return SchedulerActor(
        config,
        table.tokens,
        ["simulated"] * len(table.tokens),
        profile.max_tokens,
        layout.seed,
        max_staleness=layout.max_staleness,
        report_timeout_seconds=FOREVER_SECONDS,
    )


def _cores(profile: Profile, layout: Layout) -> SharedCores:
    slowdown = COLOCATED_SLOWDOWN if layout.colocated else 1.0
    return SharedCores(
        max(profile.engine_slowdown, slowdown), max(profile.learner_slowdown, slowdown)
    )


def _step(
    result: StepResult,
    ledger: dict[str, float],
    pool: SimulatedPool,
    learners: SimulatedLearners,
    policy: SimulatedPolicy,
    seconds: float,
) -> Step:
    version, metrics = result.step, result.metrics
    rewards = [report.rewards for report in result.reports if report.num_responses]
    stale = [version - 1 - r.version for r in result.reports if r.num_responses]
    return Step(
        seconds=seconds,
        engine_busy_seconds=sum(engine.busy_seconds for engine in pool.engines),
        sequence_seconds=sum(engine.sequence_seconds for engine in pool.engines),
        learner_busy_seconds=learners.busy_seconds,
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
        num_failures=pool.num_failures,
        num_retries=pool.num_retries,
        failed_tickets=failed_tickets,
    )


def _prompt(index: int, tokens: int) -> Prompt:
    return Prompt(index, np.zeros(tokens, np.int32), "", "simulated", "")
