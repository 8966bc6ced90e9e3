"""Drawing one batch: its rounds, and the tickets that each of them sends out.

scheduler.draw -> tickets -> rollouts.run -> buffer
^                           |
+--- gradient norms --------+        for a round that asks for them
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cost.types import Draw, FloatArray, Ticket, Undone
from launch.run.clocks import GenerationClock
from launch.run.deadlines import while_heard
from launch.run.parts import Parts, Plan
from launch.run.scoring import Scoring
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """A batch that is drawn: all its tickets, and which of them and of earlier ones to use."""

    batch: int
    num_tickets: int
    """Drawn for it, in all rounds."""
    pilots: frozenset[int]
    """Ids of those that are never trained on."""
    members: tuple[int, ...]
    """Ids of the tickets to learn from, in draw order."""
    num_exploring: int
    """Exploring ones among the members, which are the last."""
    carried: tuple[int, ...]
    """Ids of tickets whose groups a later batch may learn from."""


class Rounds:
    """Draws batches round by round.

    Args:
        plan: The loop's numbers.
        parts: What the loop drives.
        buffer: Where finished groups go.
        generation: Told when tickets are in generation.
        scoring: Measures gradient norms.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        buffer: OrderedBuffer[GroupRef],
        generation: GenerationClock,
        scoring: Scoring,
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._buffer = buffer
        self._generation = generation
        self._scoring = scoring

    async def draw(self, batch: int, tasks: asyncio.TaskGroup) -> DrawnBatch:
        """Draw all rounds of a batch; the tickets of the last may still be in generation.

        Args:
            batch: Its number.
            tasks: What tickets are run in.

        Raises:
            TimeoutError: If nothing is heard of a round before the last for too long.
        """
        return await self._finish(batch, [], await self._draw(batch, {}), tasks)

    async def go_on(
        self, undone: Undone, held: dict[int, GroupRef], tasks: asyncio.TaskGroup
    ) -> DrawnBatch:
        """Go on with a batch of a run that was stopped, its groups held as far as they are there.

        Args:
            undone: The batch, and which of its tickets to run again.
            held: By ticket id, the groups of its other tickets, which are taken out.
            tasks: What tickets are run in.

        Raises:
            TimeoutError: If nothing is heard of a round before the last for too long.
        """
        there = [t for t in undone.draw.tickets if t.ticket_id not in undone.again]
        for ticket in there:
            self._buffer.put(ticket.ticket_id, held.pop(ticket.ticket_id))
        again = [t for t in undone.draw.tickets if t.ticket_id in undone.again]
        return await self._finish(undone.batch, there, replace(undone.draw, tickets=again), tasks)

    async def _draw(self, batch: int, norms: Mapping[int, FloatArray]) -> Draw:
        folded = max(0, batch - self._plan.max_staleness)
        return await self._parts.scheduler.draw(batch, folded, norms)

    async def _finish(
        self, batch: int, tickets: list[Ticket], drawn: Draw, tasks: asyncio.TaskGroup
    ) -> DrawnBatch:
        """Run a round, and those after it; `tickets` are those of the batch that are done."""
        while True:
            self._generation.begin(batch, len(drawn.tickets))
            running = [tasks.create_task(self._roll(batch, ticket)) for ticket in drawn.tickets]
            tickets += drawn.tickets
            if drawn.members is not None:
                return DrawnBatch(
                    batch=batch,
                    num_tickets=len(tickets),
                    pilots=frozenset(t.ticket_id for t in tickets if not t.trainable),
                    members=drawn.members,
                    num_exploring=sum(ticket.exploring for ticket in tickets),
                    carried=drawn.carried,
                )
            seconds, signs = self._plan.batch_deadline_seconds, self._parts.rollouts.signs
            async with while_heard(batch, seconds, signs):
                groups = await asyncio.gather(*running)
                norms = await self._norms(batch, groups) if drawn.gradient_norms else {}
            drawn = await self._draw(batch, norms)

    async def _roll(self, batch: int, ticket: Ticket) -> GroupRef:
        try:
            prompt = self._parts.prompts[ticket.prompt_index]
            group = await self._parts.rollouts.run(ticket, prompt)
        finally:
            self._generation.end(batch)
        # Nobody learns from a pilot: once measured, its responses need not be held any longer.
        kept = group if ticket.trainable else replace(group, data=None)
        self._buffer.put(ticket.ticket_id, kept)
        return group

    async def _norms(self, batch: int, groups: list[GroupRef]) -> dict[int, FloatArray]:
        norms = await self._scoring.gradient_norms(batch, groups)
        return {group.report.ticket_id: own for group, own in zip(groups, norms, strict=True)}
