"""One configuration in simulated time: the scheduler, buffer and loop that train, unchanged.

profile, scheduler, layout -> launch.run.loop.train on simulated engines and learners -> Outcome
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cost.scheduler.actor import SchedulerActor
from cost.scheduler.config import SchedulerConfig
from launch.record.metrics import step_metrics
from launch.record.step import StepResult
from launch.run.loop import Plan, train
from launch.study.simulation import clock
from launch.study.simulation.engine import SimulatedPool
from launch.study.simulation.learners import SharedCores, SimulatedLearners, SimulatedPublisher
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.profile import Profile
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
    scheduler = SchedulerActor(
        scheduler_config,
        table.tokens,
        ["simulated"] * len(table.tokens),
        profile.max_tokens,
        layout.seed,
        max_staleness=layout.max_staleness,
        report_timeout_seconds=FOREVER_SECONDS,
    )
    slowdown = COLOCATED_SLOWDOWN if layout.colocated else 1.0
    cores = SharedCores(
        max(profile.engine_slowdown, slowdown), max(profile.learner_slowdown, slowdown)
    )
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
        version, metrics = result.step, result.metrics
        rewards = [report.rewards for report in result.reports if report.num_responses]
        stale = [version - 1 - r.version for r in result.reports if r.num_responses]
        steps.append(
            Step(
                seconds=loop.time(),
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
        )

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
            prompts=[_prompt(index, int(tokens)) for index, tokens in enumerate(table.tokens)],
            scheduler=scheduler,
            rollouts=pool,
            learners=learners,
            publish=SimulatedPublisher(profile.publish, pool).publish,
            on_step=on_step,
        )
    finally:
        pool.close()
    ledger = await scheduler.metrics()
    return Outcome(
        layout=layout,
        start=steps[warm_up],
        steps=steps[warm_up + 1 : warm_up + 1 + layout.num_steps],
        response_tokens=sum(engine.response_tokens for engine in pool.engines),
        prefill_tokens=sum(engine.prefill_tokens for engine in pool.engines),
        lost_tokens=sum(engine.lost_tokens for engine in pool.engines),
        decode_steps=sum(engine.steps for engine in pool.engines),
        num_failures=pool.num_failures,
        num_retries=pool.num_retries,
        failed_tickets=int(ledger["cost/failed_tickets"]),
    )


def _prompt(index: int, tokens: int) -> Prompt:
    return Prompt(index, np.zeros(tokens, np.int32), "", "simulated", "")


@dataclass(frozen=True, slots=True)
class Row:
    """What one number of accelerators comes to."""

    accelerators: int
    engines: int
    learners: int
    tickets_per_step: int
    step_seconds: float
    """From one publish to the next, mean."""
    engine_idle_share: float
    """Of the engines' time, in which nothing runs on them."""
    engine_occupancy: float
    """Running sequences over slots while anything runs, mean."""
    learner_idle_share: float
    """Of the learners' time, in which they do not compute."""
    staleness_mean: float
    staleness_max: float
    generated_tokens_per_second: float
    trained_tokens_per_second: float
    step_accelerator_seconds: float
    """Cost of a step: accelerators times step_seconds."""
    trained_tokens_per_accelerator_second: float
    steps_to_target: float
    """Updates to the target pass rate by the profile's law; NaN without a target or a gain."""
    hours_to_target: float
    accelerator_hours_to_target: float
    failures: int
    retries: int


def row(
    profile: Profile, scheduler: SchedulerConfig, outcome: Outcome, target_pass_rate: float | None
) -> Row:
    """Sum an outcome up.

    Updates to the target are extrapolated: logits to gain from the start, by the mean gain of an
    update. The law adds the same to every prompt, so that this is exact where the gain is steady.
    """
    layout, first, last = outcome.layout, outcome.start, outcome.steps[-1]
    elapsed = last.seconds - first.seconds
    step_seconds = elapsed / len(outcome.steps)
    busy = last.engine_busy_seconds - first.engine_busy_seconds
    running = last.sequence_seconds - first.sequence_seconds
    learning = last.learner_busy_seconds - first.learner_busy_seconds
    trained = last.trained_tokens - first.trained_tokens
    gain = (last.gained_logits - first.gained_logits) / len(outcome.steps)
    steps_to_target = math.nan
    if target_pass_rate is not None and gain > 0:
        policy = SimulatedPolicy(profile, profile.prompts.table(layout.seed), layout.seed)
        steps_to_target = math.ceil(policy.logits_to(target_pass_rate) / gain)
    hours = steps_to_target * step_seconds / 3600
    return Row(
        accelerators=layout.num_accelerators,
        engines=layout.num_engines,
        learners=layout.num_learners,
        tickets_per_step=scheduler.tickets_per_step,
        step_seconds=step_seconds,
        engine_idle_share=1 - _ratio(busy, elapsed * layout.num_engines),
        engine_occupancy=_ratio(running, busy * profile.engine.max_num_seqs),
        learner_idle_share=1 - _ratio(learning, elapsed),
        staleness_mean=_mean([step.staleness_mean for step in outcome.steps]),
        staleness_max=max(step.staleness_max for step in outcome.steps),
        generated_tokens_per_second=_ratio(last.generated_tokens - first.generated_tokens, elapsed),
        trained_tokens_per_second=_ratio(trained, elapsed),
        step_accelerator_seconds=step_seconds * layout.num_accelerators,
        trained_tokens_per_accelerator_second=_ratio(trained, elapsed * layout.num_accelerators),
        steps_to_target=steps_to_target,
        hours_to_target=hours,
        accelerator_hours_to_target=hours * layout.num_accelerators,
        failures=outcome.num_failures,
        retries=outcome.num_retries,
    )


def split(
    num_accelerators: int, learner_share: float, accelerators_per_engine: int
) -> tuple[int, int, bool]:
    """Share accelerators out.

    Args:
        num_accelerators: At least as many as one engine has.
        learner_share: Part of them for learners, in (0, 1).
        accelerators_per_engine: Of one engine.

    Returns:
        Engines, learners, and whether they are on the same accelerators, as with those of a single
        engine. Learners also get what is left over from whole engines.

    Raises:
        ValueError: If there is no room for an engine.
    """
    if num_accelerators < accelerators_per_engine:
        raise ValueError(
            f"accelerators must each be at least {accelerators_per_engine}, what an engine of the "
            f"profile takes, got {num_accelerators}"
        )
    if num_accelerators == accelerators_per_engine:
        return 1, num_accelerators, True
    wanted = max(1, round(num_accelerators * learner_share))
    engines = max(1, (num_accelerators - wanted) // accelerators_per_engine)
    return engines, num_accelerators - engines * accelerators_per_engine, False


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
