"""One row a number of accelerators: what a machine of that size comes to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conf.studies import SimulateConfig
from cost.scheduler.config import SchedulerConfig
from launch.cli.refusals import refusing
from launch.record.counter import Counter
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.profile import Profile
from launch.study.simulation.study import Outcome, simulate
from launch.study.simulation.system import Layout


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
        failures=last.num_failures - first.num_failures,
        retries=last.num_retries - first.num_retries,
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


def simulate_sizes(config: SimulateConfig) -> list[Row]:
    """Simulate every number of accelerators, and show how far it is.

    Raises:
        UserError: If a number has no room for an engine.
    """
    sizes = [(_layout(config, count), batch_of(config, count)) for count in config.accelerators]
    num_steps = config.num_steps + 2 * warm_up(config)
    # What a step takes to simulate grows with its tickets.
    work = [num_steps * scheduler.tickets_per_step for _, scheduler in sizes]
    rows: list[Row] = []
    with Counter("simulating", sum(work)) as counter:
        for layout, scheduler in sizes:
            before = sum(work[: len(rows)])

            def say(step: int, layout: Layout = layout, before: int = before) -> None:
                done = before + step * work[len(rows)] // num_steps
                counter.to(done, f"{layout.num_accelerators} accelerators, step {step}/{num_steps}")

            rows.append(simulate_layout(config, scheduler, layout, say))
    return rows


def warm_up(config: SimulateConfig) -> int:
    """Return the steps until the pipeline is full: the first batches are drawn together."""
    return config.max_staleness + 1


def simulate_layout(
    config: SimulateConfig,
    scheduler: SchedulerConfig,
    layout: Layout,
    say: Callable[[int], None] = lambda step: None,
) -> Row:
    """Simulate one layout; `say` is called with the number of every step that is over."""
    outcome = simulate(config.profile, scheduler, layout, warm_up=warm_up(config), say=say)
    return row(config.profile, scheduler, outcome, config.target_pass_rate)


def batch_of(config: SimulateConfig, num_accelerators: int) -> SchedulerConfig:
    """Return the scheduler's settings with a batch for so many accelerators."""
    if config.tickets_per_accelerator is None:
        return config.scheduler
    tickets = max(1, round(num_accelerators * config.tickets_per_accelerator))
    return replace(config.scheduler, tickets_per_step=tickets)


def _layout(config: SimulateConfig, num_accelerators: int) -> Layout:
    with refusing():
        engines, learners, colocated = split(
            num_accelerators, config.learner_share, config.profile.engine.accelerators
        )
    return layout_of(config, num_accelerators, engines, learners, colocated)


def layout_of(
    config: SimulateConfig,
    num_accelerators: int,
    engines: int,
    learners: int,
    colocated: bool = False,
) -> Layout:
    """Return the layout of so many engines and learners."""
    return Layout(
        num_engines=engines,
        num_learners=learners,
        num_accelerators=num_accelerators,
        colocated=colocated,
        num_steps=config.num_steps,
        max_staleness=config.max_staleness,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        prefix_caching=config.prefix_caching,
        update_mode=config.update_mode,
        max_retries=config.max_retries,
        seed=config.seed,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
