"""The one training loop: two coroutines and an ordered buffer.

    draw:   scheduler.draw(b) -> rollouts.run(ticket) ------------------> buffer   waits: staleness
    learn:  buffer.take -> scheduler.select -> learners.update -> publish -> buffer.advance
    report: rollout actors -> scheduler.observe                                    not through here

draw waits in `buffer.admit`, woken by `buffer.advance`; learn waits in `buffer.take`, woken by the
rollouts that draw started. `max_staleness = 0` makes them take turns; there is no other loop. An
error in either ends both with that error.

A batch may take several rounds of drawing, each after the reports of the one before. All its
tickets pass through the buffer; the learners get those that the scheduler names as its members.

Reproducibility: batch b is drawn from statistics folded exactly up to batch b - max_staleness,
whatever has been reported by then.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from cost.types import Draw, FloatArray, LengthReport, Selection, Ticket
from launch.record.step import StepResult
from launch.run.clocks import GenerationClock, Laps
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef, Prompt

Metrics = dict[str, float]


class Scheduler(Protocol):
    """The scheduler as the loop sees it; see `cost.scheduler.scheduler.Scheduler`."""

    async def draw(self, batch: int, folded_batches: int) -> Draw:
        """Fold the first so many batches, then draw the next round of a batch."""

    async def observe_gradient_norms(self, norms: Mapping[int, FloatArray]) -> None:
        """Take in gradient norms [n] by ticket id."""

    async def select(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        epoch: int,
        progress: float,
        penalties: Sequence[FloatArray] | None,
    ) -> list[Selection]:
        """Choose and weigh the responses to train on, rewards lowered by penalties [n] each."""

    async def calibrate(
        self,
        reports: Sequence[LengthReport],
        selections: Sequence[Selection],
        norms: Sequence[FloatArray],
    ) -> None:
        """Take in gradient norms of a selected batch's responses."""

    async def spend(self, batch: int, engine_seconds: float, learner_seconds: float) -> None:
        """Take in the seconds that a learned batch took."""

    async def observe_entropy(self, batch: int, entropy: float) -> None:
        """Take in the policy's entropy at a learned batch, nats; NaN if it is not known."""


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

    async def gradient_norms(self, groups: Sequence[GroupRef], *, layer: str) -> list[FloatArray]:
        """Norm of each response's summed score, one array a group."""

    async def reference_kl(self, groups: Sequence[GroupRef]) -> list[FloatArray]:
        """Estimate each response's divergence from the reference policy, one array a group."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The loop's numbers."""

    num_steps: int
    """Batches to learn."""
    num_epochs: int
    """Passes over each batch."""
    max_staleness: int
    """Versions a batch may be behind when learned."""
    batch_deadline_seconds: float
    """Longest wait for one round of a batch."""
    num_engine_accelerators: int = 1
    """Accelerators of all engines together."""
    num_learners: int = 1
    """Learners at work during an update."""
    reward_kl_coefficient: float = 0.0
    """What a nat of a response's divergence from the reference takes off its reward; 0 when there
    is nothing to take off."""
    gradient_norm_layer: str = "lm_head"
    """Layer whose gradient is measured per response."""
    calibrate_every: int = 0
    """Batches between measurements for the scheduler's calibration; 0 for none."""
    controls_entropy: bool = False
    """Whether the scheduler is told the policy's entropy."""
    max_generated_tokens: int | None = None
    """No batch is drawn once those before it are expected to take so many tokens of the engines;
    None for no such bound."""
    max_trained_tokens: int | None = None
    """The same for tokens of kept responses with their prompts, every pass counted."""
    max_seconds: float | None = None
    """The same for seconds of waiting, learning and publishing."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that is drawn: all its tickets, and which of them and of earlier ones to use."""

    num_tickets: int
    pilots: frozenset[int]
    members: tuple[int, ...]
    num_exploring: int
    """Exploring ones among the members, which are the last."""
    carried: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Spent:
    """What some learned batches took."""

    generated_tokens: int = 0
    """By the engines."""
    pilot_tokens: int = 0
    """Of these, for pilots."""
    trained_tokens: int = 0
    seconds: float = 0.0

    def with_groups(self, reports: Sequence[LengthReport], pilots: frozenset[int]) -> "_Spent":
        """Add what the engines did for a batch; `reports` are of all tickets drawn for it."""
        tokens = {report.ticket_id: report.generated_tokens for report in reports}
        pilot_tokens = sum(count for ticket_id, count in tokens.items() if ticket_id in pilots)
        return replace(
            self,
            generated_tokens=self.generated_tokens + sum(tokens.values()),
            pilot_tokens=self.pilot_tokens + pilot_tokens,
        )

    def with_learning(self, trained_tokens: int, seconds: float) -> "_Spent":
        """Add what learning from a batch took, and the wait for it."""
        return replace(
            self,
            trained_tokens=self.trained_tokens + trained_tokens,
            seconds=self.seconds + seconds,
        )


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
    buffer: OrderedBuffer[GroupRef] = OrderedBuffer(plan.max_staleness)
    batches: asyncio.Queue[_Batch | None] = asyncio.Queue()
    generation = GenerationClock()
    spent = [_Spent()]

    async def roll(batch: int, ticket: Ticket) -> GroupRef:
        with generation.running(batch):
            group = await rollouts.run(ticket, prompts[ticket.prompt_index])
        # Nobody learns from a pilot: once measured, its responses need not be held any longer.
        kept = group if ticket.trainable else replace(group, data=None)
        await buffer.put(ticket.ticket_id, kept)
        return group

    async def draw() -> None:
        for batch in range(plan.num_steps):
            await buffer.admit(batch)
            if _used_up(plan, batch, spent):
                break
            await batches.put(await draw_batch(batch))
        await batches.put(None)

    async def draw_batch(batch: int) -> _Batch:
        folded_batches = max(0, batch - plan.max_staleness)
        num_tickets = 0
        pilots: set[int] = set()
        while True:
            drawn = await scheduler.draw(batch, folded_batches)
            running = [tasks.create_task(roll(batch, ticket)) for ticket in drawn.tickets]
            num_tickets += len(running)
            pilots |= {ticket.ticket_id for ticket in drawn.tickets if not ticket.trainable}
            if drawn.members is not None:
                num_exploring = sum(ticket.exploring for ticket in drawn.tickets)
                return _Batch(
                    num_tickets, frozenset(pilots), drawn.members, num_exploring, drawn.carried
                )
            async with asyncio.timeout(plan.batch_deadline_seconds):
                groups = await asyncio.gather(*running)
                if drawn.gradient_norms:
                    norms = await learners.gradient_norms(groups, layer=plan.gradient_norm_layer)
                    ids = [ticket.ticket_id for ticket in drawn.tickets]
                    await scheduler.observe_gradient_norms(dict(zip(ids, norms, strict=True)))

    async def learn() -> None:
        held: dict[int, GroupRef] = {}
        for batch in range(plan.num_steps):
            waiting = Laps()
            # Each round of drawing has a deadline of its own, and there may be many.
            drawn = await batches.get()
            if drawn is None:
                return
            async with asyncio.timeout(plan.batch_deadline_seconds):
                fresh = await buffer.take(drawn.num_tickets)
            held |= {group.report.ticket_id: group for group in fresh}
            groups = [held[ticket_id] for ticket_id in drawn.members]
            held = {ticket_id: held[ticket_id] for ticket_id in drawn.carried}
            generated = spent[batch].with_groups([group.report for group in fresh], drawn.pilots)
            # Groups that were filtered need not be held while the others are learned.
            del fresh
            await learn_batch(batch, groups, drawn.num_exploring, generated, waiting.lap())

    async def learn_batch(
        batch: int, groups: list[GroupRef], num_exploring: int, generated: _Spent, wait: float
    ) -> None:
        clock = Laps()
        reports = [group.report for group in groups]
        # Penalties and calibrations compare the policy's own responses.
        num_plain = len(groups) - num_exploring
        plain = groups[:num_plain]
        progress = _progress(plan, batch, spent[batch])
        selections: list[Selection] = []
        updating = Laps()
        penalties, metrics = await _penalties(plan, learners, plain)
        learner_seconds, trained_tokens = updating.lap(), 0
        for epoch in range(plan.num_epochs):
            selections = await scheduler.select(batch, reports, epoch, progress, penalties)
            if epoch == 0 and plan.calibrate_every and batch % plan.calibrate_every == 0:
                norms = await learners.gradient_norms(plain, layer=plan.gradient_norm_layer)
                await scheduler.calibrate(reports[:num_plain], selections[:num_plain], norms)
            trained_tokens += _trained_tokens(reports, selections)
            updating = Laps()
            metrics |= await learners.update(groups, selections, step=batch, epoch=epoch)
            learner_seconds += updating.lap()
        update = clock.lap()
        await scheduler.spend(
            batch,
            generation.take(batch) * plan.num_engine_accelerators,
            learner_seconds * plan.num_learners,
        )
        if plan.controls_entropy:
            await scheduler.observe_entropy(batch, metrics.get("learner/entropy", math.nan))
        metrics |= await publish(batch + 1)
        publishing = clock.lap()
        spent.append(generated.with_learning(trained_tokens, wait + update + publishing))
        await buffer.advance()
        metrics |= {
            "loop/wait_seconds": wait,
            "loop/update_seconds": update,
            "loop/publish_seconds": publishing,
            "loop/generate_seconds": generation.take_total(),
            "loop/staleness": _staleness(batch, groups),
        }
        await on_step(StepResult(batch + 1, groups, selections, metrics))

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(draw())
            tasks.create_task(learn())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


async def _penalties(
    plan: Plan, learners: Learners, groups: Sequence[GroupRef]
) -> tuple[list[FloatArray] | None, Metrics]:
    """What a batch's responses lose of their rewards, once for all passes over it."""
    if not plan.reward_kl_coefficient:
        return None, {}
    found = await learners.reference_kl(groups)
    mean = float(np.mean(np.concatenate(found))) if any(map(len, found)) else math.nan
    return (
        [plan.reward_kl_coefficient * kl for kl in found],
        {"learner/kl_reference_response": mean},
    )


def _used_up(plan: Plan, batch: int, spent: Sequence[_Spent]) -> bool:
    """Whether the batches before this one use up the tokens or seconds there are.

    Batches in flight are taken to cost what those learned by now did on average, pilots left out: a
    profile comes once. What was learned is looked up as of `max_staleness` batches ago, so that the
    answer does not depend on timing, unless it is seconds that are bounded.

    Args:
        plan: The loop's numbers.
        batch: The next to be drawn.
        spent: What the first b batches took, at position b.
    """
    num_learned = batch - plan.max_staleness
    if num_learned < 1:
        return False
    learned = spent[num_learned]
    generated = learned.generated_tokens
    # Bound, spent so far, and the part of it that further batches spend again.
    bounds: list[tuple[float | None, float, float]] = [
        (plan.max_generated_tokens, generated, generated - learned.pilot_tokens),
        (plan.max_trained_tokens, learned.trained_tokens, learned.trained_tokens),
        (plan.max_seconds, learned.seconds, learned.seconds),
    ]
    in_flight = plan.max_staleness / num_learned
    return any(
        most is not None and total + in_flight * again >= most for most, total, again in bounds
    )


def _progress(plan: Plan, batch: int, spent: _Spent) -> float:
    """Share of the run that is over before a batch, by whichever bound ends it first."""
    bounds = (
        (plan.max_generated_tokens, spent.generated_tokens),
        (plan.max_trained_tokens, spent.trained_tokens),
        (plan.max_seconds, spent.seconds),
    )
    shares = [amount / most for most, amount in bounds if most is not None]
    return min(max([batch / plan.num_steps, *shares]), 1.0)


def _trained_tokens(reports: Sequence[LengthReport], selections: Sequence[Selection]) -> int:
    """Tokens of the kept responses, the prompt repeated with each, as the ledger counts them."""
    return sum(
        int((report.lengths + report.prompt_tokens)[selection.keep].sum())
        for report, selection in zip(reports, selections, strict=True)
    )


def _staleness(version: int, groups: Sequence[GroupRef]) -> float:
    """Largest staleness at use: the learner's version minus a group's oldest one."""
    return float(max((version - g.report.version for g in groups if g.data is not None), default=0))


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is not a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
