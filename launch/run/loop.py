"""The one training loop: a batch's life, in two coroutines and an ordered buffer.

    draw:   scheduler.draw(b) -> rollouts.run(ticket) -------------------------> buffer
    learn:  buffer -> scheduler.select(b) -> learners.update -> scheduler.learned(b) -> publish
    report: rollout actors -> scheduler.observe                                not through here

`max_staleness = 0` makes the two take turns; there is no other loop. An error in either ends both
with that error, and no wait is without a deadline.

A batch may take several rounds of drawing, each after the reports of the one before
(`launch.run.drawing`). All its tickets pass through the buffer in draw order; the learners get
those that the scheduler names as its members, in one or more passes (`launch.run.learning`).

Reproducibility: batch b is drawn from statistics folded exactly up to batch b - max_staleness,
whatever has been reported by then.
"""

import asyncio
from collections.abc import Awaitable, Callable

from cost.types import Feedback
from launch.record.step import StepResult
from launch.run.budget import Budget
from launch.run.clocks import GenerationClock, Laps
from launch.run.drawing import DrawnBatch, Rounds
from launch.run.learning import HandOver, Passes
from launch.run.parts import Parts, Plan
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef

OnStep = Callable[[StepResult], Awaitable[None]]


async def train(plan: Plan, parts: Parts, on_step: OnStep) -> None:
    """Run the loop to its end; `on_step` is called after each publish.

    Raises:
        TimeoutError: If a batch misses its deadline.
    """
    buffer: OrderedBuffer[GroupRef] = OrderedBuffer(plan.max_staleness)
    batches: asyncio.Queue[DrawnBatch | None] = asyncio.Queue()
    budget, generation = Budget(plan), GenerationClock()
    rounds = Rounds(plan, parts, buffer, generation)
    hand_over, passes = HandOver(buffer, plan.batch_deadline_seconds), Passes(plan, parts)

    # Consumes nothing; produces batches, and groups in the buffer; waits for the staleness that the
    # next batch may have, woken by buffer.advance.
    async def draw() -> None:
        for batch in range(plan.num_steps):
            await buffer.admit(batch)
            if budget.used_up(batch):
                break
            await batches.put(await rounds.draw(batch, tasks))
        await batches.put(None)

    # Consumes batches and their groups; produces versions and steps; waits for a batch to be drawn
    # and for its last group, woken by draw and by the rollouts that it started.
    async def learn() -> None:
        clock = Laps()
        while (drawn := await batches.get()) is not None:
            taken = await hand_over.take(drawn)
            wait = clock.lap()
            learned = await passes.learn(taken, budget.progress(drawn.batch))
            update = clock.lap()
            engine_seconds = generation.take(drawn.batch) * plan.num_engine_accelerators
            learner_seconds = learned.learner_seconds * plan.num_learners
            await parts.scheduler.learned(
                drawn.batch,
                Feedback(engine_seconds, learner_seconds, learned.entropy, learned.gradient_norms),
            )
            metrics = learned.metrics | await parts.publish(drawn.batch + 1)
            publish = clock.lap()
            budget.spend(
                drawn.batch, taken.reports, drawn.pilots,
                trained_tokens=learned.trained_tokens, seconds=wait + update + publish,
            )  # fmt: skip
            await buffer.advance()
            metrics |= {
                "loop/wait_seconds": wait,
                "loop/update_seconds": update,
                "loop/publish_seconds": publish,
                "loop/generate_seconds": generation.take_total(),
                "loop/staleness": taken.staleness,
            }
            await on_step(StepResult(drawn.batch + 1, taken.groups, learned.selections, metrics))
            # So that nothing holds the groups while the next batch is generated.
            del taken, learned
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
