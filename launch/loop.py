"""The one training loop: two coroutines and an ordered buffer.

    draw:   scheduler.draw(P) -> rollouts.run(ticket) ------------------> buffer   waits: staleness
    learn:  buffer.take -> scheduler.select -> learners.update -> publish -> buffer.advance
    report: rollout actors -> scheduler.observe                                    not through here

draw waits in `buffer.admit`, woken by `buffer.advance`; learn waits in `buffer.take`, woken by the
rollouts that draw started. `max_staleness = 0` makes them take turns; there is no other loop. An
error in either ends both with that error.

Reproducibility: batch b is drawn from statistics folded exactly up to batch b - max_staleness,
whatever has been reported by then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cost.types import LengthReport, Selection, Ticket
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef, Prompt

Metrics = dict[str, float]


class Scheduler(Protocol):
    """The scheduler as the loop sees it; see `cost.scheduler.Scheduler`."""

    async def draw(self, num_tickets: int, folded_until: int) -> list[Ticket]:
        """Fold every report of a ticket below `folded_until`, then draw."""

    async def select(self, reports: Sequence[LengthReport], epoch: int) -> list[Selection]:
        """Choose and weigh the responses to train on."""


class Rollouts(Protocol):
    """The rollout pool as the loop sees it."""

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn a ticket into a group; an empty one if it fails for good."""


class Learners(Protocol):
    """The learner team as the loop sees it."""

    async def update(
        self, groups: Sequence[GroupRef], selections: Sequence[Selection], *, step: int, epoch: int
    ) -> Metrics:
        """Take one pass over a batch; raises when the loss stays non-finite."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The loop's numbers."""

    num_steps: int
    """Batches to learn."""
    tickets_per_step: int
    """P."""
    num_epochs: int
    """Passes over each batch."""
    max_staleness: int
    """Versions a batch may be behind when learned."""
    batch_deadline_seconds: float
    """Longest wait for one batch."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one learned batch looked like."""

    step: int
    """Batches learned so far, from 1; equals the published version."""
    groups: list[GroupRef]
    selections: list[Selection]
    """Of the last pass."""
    metrics: Metrics
    """From the learners and the publish, with `loop/..._seconds`."""

    @property
    def reports(self) -> list[LengthReport]:
        """The groups' reports, in draw order."""
        return [group.report for group in self.groups]


async def train(
    plan: Plan,
    *,
    prompts: Sequence[Prompt],
    scheduler: Scheduler,
    rollouts: Rollouts,
    learners: Learners,
    publish: Callable[[int], Awaitable[Metrics]],
    on_step: Callable[[StepResult], Awaitable[None]],
) -> None:
    """Run the loop to its end.

    Args:
        plan: The loop's numbers.
        prompts: [N] the task; a ticket's `prompt_index` points into it.
        scheduler: Draws and selects.
        rollouts: Generates.
        learners: Learns.
        publish: Makes the given version available to the engines.
        on_step: Called after each publish.

    Raises:
        TimeoutError: If a batch misses its deadline.
    """
    num_tickets = plan.tickets_per_step
    buffer: OrderedBuffer[GroupRef] = OrderedBuffer(plan.max_staleness)
    generation = Stopwatch()

    async def roll(ticket: Ticket) -> None:
        with generation:
            group = await rollouts.run(ticket, prompts[ticket.prompt_index])
        await buffer.put(ticket.ticket_id, group)

    async def draw() -> None:
        for batch in range(plan.num_steps):
            await buffer.admit(batch)
            folded_until = num_tickets * max(0, batch - plan.max_staleness)
            for ticket in await scheduler.draw(num_tickets, folded_until):
                tasks.create_task(roll(ticket))

    async def learn() -> None:
        for batch in range(plan.num_steps):
            clock = Laps()
            async with asyncio.timeout(plan.batch_deadline_seconds):
                groups = await buffer.take(num_tickets)
            wait = clock.lap()
            metrics: Metrics = {}
            for epoch in range(plan.num_epochs):
                selections = await scheduler.select([group.report for group in groups], epoch)
                metrics |= await learners.update(groups, selections, step=batch, epoch=epoch)
            update = clock.lap()
            metrics |= await publish(batch + 1)
            await buffer.advance()
            metrics |= {
                "loop/wait_seconds": wait,
                "loop/update_seconds": update,
                "loop/publish_seconds": clock.lap(),
                "loop/generate_seconds": generation.take(),
                "loop/staleness": _staleness(batch, groups),
            }
            await on_step(StepResult(batch + 1, groups, selections, metrics))

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(draw())
            tasks.create_task(learn())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


class Laps:
    """Seconds between calls."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        return elapsed


class Stopwatch:
    """Wall-clock seconds during which at least one `with` block was open."""

    def __init__(self) -> None:
        self._open = 0
        self._since = 0.0
        self._total = 0.0

    def __enter__(self) -> None:
        if self._open == 0:
            self._since = time.monotonic()
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1
        if self._open == 0:
            self._total += time.monotonic() - self._since

    def take(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        if self._open:
            self._total += now - self._since
            self._since = now
        total, self._total = self._total, 0.0
        return total


def _staleness(version: int, groups: Sequence[GroupRef]) -> float:
    """Largest staleness at use: the learner's version minus a group's oldest one."""
    return float(max((version - g.report.version for g in groups if g.data is not None), default=0))


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is not a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
