"""The training loop: two coroutines, of which one generates batches and the other learns them.

    draw:   scheduler.draw(b) -> rollouts.run(ticket) -------------------------> buffer
    learn:  buffer -> scheduler.select(b) -> learners.update -> scheduler.learned(b) -> publish
    report: rollout actors -> scheduler.observe                     (not through the driver)

With `max_staleness = 0` the two coroutines take turns; every run uses this loop. An error in either
ends both with that error, and every wait has a deadline.

A batch may take several rounds of drawing, each after the reports of the one before
(`launch.run.drawing`). All its tickets pass through the buffer in draw order; the learners get
those that the scheduler names as its members, in one or more passes (`launch.run.learning`).

With `max_staleness = 1` the engines begin with batch b + 1 as soon as version b is published. At
the start version 0 admits batches 0 and 1 together. They share the engines and finish at about the
same time, and so do all later pairs: the learners wait for one batch and find the next one ready.
Beginning with b + 1 only when the learners take b would make all waits equal, but longer in total:
the engines' slots that are free beside the last responses of b would stay empty.

Reproducibility: batch b is drawn from statistics folded exactly up to batch b - max_staleness,
whatever has been reported by then.
"""

import asyncio
from collections.abc import Awaitable, Callable

from launch.record.step import StepResult
from launch.run.clocks import Laps, Phases
from launch.run.drawing import DrawnBatch, Rounds
from launch.run.learning import Passes
from launch.run.parts import Parts, Plan
from launch.run.position import Position
from launch.run.scoring import Scoring

OnStep = Callable[[StepResult], Awaitable[None]]


async def train(
    plan: Plan, parts: Parts, on_step: OnStep, position: Position | None = None
) -> None:
    """Run the loop to its end; `on_step` is called after each publish.

    Args:
        plan: The loop's numbers.
        parts: What the loop drives.
        on_step: Called before the next draw sees what was learned: all it saves is of one step.
        position: Where to go on from; None for the start.

    Raises:
        TimeoutError: If a batch misses its deadline.
    """
    position = position or Position(plan)
    batches: asyncio.Queue[DrawnBatch | None] = asyncio.Queue()
    buffer, budget, generation = position.buffer, position.budget, position.generation
    scoring = Scoring(plan, parts.learners, position.scored)
    rounds, passes = Rounds(plan, parts, buffer, generation, scoring), Passes(plan, parts, scoring)

    # consumes    nothing but the right to go on, which a published version gives
    # produces    batches, and their groups in the buffer
    # waits for   the staleness that the next batch may have
    # woken by    buffer.advance
    async def draw() -> None:
        for undone in position.undone:
            await batches.put(await rounds.go_on(undone, position.given, tasks))
        for batch in range(position.next_batch, plan.num_steps):
            await buffer.admit(batch)
            if budget.used_up(batch):
                break
            await batches.put(await rounds.draw(batch, tasks))
        await batches.put(None)

    # consumes    batches, and their groups from the buffer
    # produces    versions of the policy, and a step for whoever records it
    # waits for   a batch that is drawn, then for the last of its groups
    # woken by    draw, and the rollouts that it started
    async def learn() -> None:
        clock = Laps()
        while (drawn := await batches.get()) is not None:
            batch, taken = drawn.batch, await position.hand_over.take(drawn, parts.rollouts.signs)
            position.learning, wait = True, clock.lap()
            learned, update = await passes.learn(taken, budget.progress(batch)), clock.lap()
            await parts.scheduler.learned(batch, passes.feedback(learned, generation.take(batch)))
            published = await parts.publish(batch + 1, taken.groups)
            phases = Phases(wait, update, publish=clock.lap())
            told = budget.spend(batch, passes.spent(taken, learned, published, phases.total))
            position.batch, position.learning = batch + 1, False
            await on_step(learned.step(taken, published | told, phases, generation.take_total()))
            await buffer.advance()
            del taken, learned  # So that nothing holds the groups while the next is generated.
            clock = Laps()

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(draw())
            tasks.create_task(learn())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is not a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
