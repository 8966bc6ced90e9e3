"""The driver's side of R rollout actors: place tickets, watch deadlines, replace what dies.

A ticket that crashes or misses its deadline is tried again as a new attempt, with its probability
and its place in the order; a fresh draw in its stead would favour prompts that finish. An actor
that died, or whose engine died, is replaced, and gets the current weights before it gets a ticket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cost.types import LengthReport, Ticket
from rollout.actor import empty_report
from rollout.config import RolloutConfig
from rollout.types import GroupRef, Prompt

log = logging.getLogger(__name__)
CHECK_SECONDS = 60.0
"""An actor that does not say within this time whether it is well counts as dead."""


class EngineError(RuntimeError):
    """Engines keep dying."""


class RolloutPool:
    """R rollout actors behind one `run`.

    Args:
        make_actor: Creates the actor with the given index; called again to replace it.
        num_actors: R.
        config: Deadlines and retries.
        scheduler: Handle of the SchedulerActor that reports go to; None to evaluate.
        seed: The run's seed; requests derive theirs from it.
    """

    def __init__(
        self,
        make_actor: Callable[[int, Any, int], Any],
        num_actors: int,
        config: RolloutConfig,
        scheduler: Any,
        seed: int,
    ) -> None:
        self._make_actor = make_actor
        self._config = config
        self._scheduler = scheduler
        self._seed = seed
        self.handles = [make_actor(i, scheduler, seed) for i in range(num_actors)]
        self._load = [0] * num_actors
        self._usable = [asyncio.Event() for _ in range(num_actors)]
        self._replacing: dict[int, asyncio.Task[None]] = {}
        self._deaths_in_a_row = 0
        self.num_replaced = 0
        self.num_retries = 0
        self.num_in_flight = 0
        self.on_replaced: Callable[[], Awaitable[None]] | None = None

    async def start(self) -> dict[str, float]:
        """Start every engine side by side; returns the slowest one's seconds by part."""
        times = await asyncio.wait_for(
            asyncio.gather(*(handle.start.remote() for handle in self.handles)),
            self._config.start_deadline_seconds,
        )
        for event in self._usable:
            event.set()
        return max(times, key=lambda t: t["total"])

    async def attach(self, scheduler: Any, seed: int) -> None:
        """Let all actors work for another run; none of the last one's tickets may be left."""
        self._scheduler, self._seed = scheduler, seed
        self.num_retries = self.num_replaced = 0
        await asyncio.wait_for(
            asyncio.gather(*(handle.attach.remote(scheduler, seed) for handle in self.handles)),
            CHECK_SECONDS,
        )

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn one ticket into a group; an empty one after the last failed retry."""

        async def attempt(handle: Any, ticket: Ticket) -> GroupRef:
            report, data = handle.run.options(num_returns=2).remote(ticket, prompt)
            found: LengthReport = await self._in_time(report)
            tokens = found.prompt_tokens * found.num_responses + int(found.lengths.sum())
            return GroupRef(report=found, num_tokens=tokens, data=data)

        self.num_in_flight += 1
        try:
            group: GroupRef | None = await self._retry(ticket, attempt)
        finally:
            self.num_in_flight -= 1
        if group is None:
            # The newest attempt counts: whatever the others may still report is lost.
            last = replace(ticket, attempt=ticket.attempt + self._config.max_retries + 1)
            report = empty_report(last, prompt)
            await self._scheduler.observe.remote(report)
            return GroupRef(report=report, num_tokens=0, data=None)
        return group

    async def evaluate(self, ticket: Ticket, prompt: Prompt, temperature: float) -> LengthReport:
        """Score one prompt's responses without anyone learning from them."""

        async def attempt(handle: Any, ticket: Ticket) -> LengthReport:
            found: LengthReport = await self._in_time(
                handle.evaluate.remote(ticket, prompt, temperature)
            )
            return found

        report: LengthReport | None = await self._retry(ticket, attempt)
        return report if report is not None else empty_report(ticket, prompt)

    async def _in_time(self, reference: Any) -> Any:
        try:
            return await asyncio.wait_for(reference, self._config.ticket_deadline_seconds)
        except TimeoutError:
            ray.cancel(reference, force=False)
            raise

    async def _retry(self, ticket: Ticket, attempt: Callable[[Any, Ticket], Awaitable[Any]]) -> Any:
        """Try on the least loaded usable actor; None when every try failed.

        Each try is another attempt at the same ticket: one that was given up may have reported, or
        may do so later.
        """
        for number in range(ticket.attempt, ticket.attempt + self._config.max_retries + 1):
            index = await self._least_loaded()
            handle = self.handles[index]
            self._load[index] += ticket.num_samples
            try:
                result = await attempt(handle, replace(ticket, attempt=number))
                self._deaths_in_a_row = 0
                return result
            except TimeoutError:
                log.warning(
                    "ticket %d missed its deadline of %g s on rollout actor %d",
                    ticket.ticket_id,
                    self._config.ticket_deadline_seconds,
                    index,
                )
            except RayActorError as error:
                self._replace(index, handle, error)
            except RayTaskError as error:
                if not _is_engine_death(error):
                    raise
                self._replace(index, handle, error)
            finally:
                self._load[index] -= ticket.num_samples
            self.num_retries += 1
        log.error("ticket %d failed %d times", ticket.ticket_id, self._config.max_retries + 1)
        return None

    async def _least_loaded(self) -> int:
        """Index of a usable actor; waits for a replacement when there is none."""
        while True:
            if failed := [t for t in self._replacing.values() if t.done() and t.exception()]:
                failed[0].result()
            if any(event.is_set() for event in self._usable):
                break
            waits = [asyncio.ensure_future(event.wait()) for event in self._usable]
            pending = [t for t in self._replacing.values() if not t.done()]
            await asyncio.wait([*waits, *pending], return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        usable = [i for i, event in enumerate(self._usable) if event.is_set()]
        return min(usable, key=lambda i: self._load[i])

    def _replace(self, index: int, handle: Any, error: Exception) -> None:
        """Start a replacement once per death, however many tickets noticed it, and however late."""
        if handle is not self.handles[index] or not self._usable[index].is_set():
            return
        self._usable[index].clear()
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > self._config.max_retries:
            raise EngineError(
                f"rollout actors died {self._deaths_in_a_row} times without finishing a ticket; "
                f"logs are in {ray_logs()}"
            ) from error
        log.warning("rollout actor %d died and is being replaced: %s", index, error)
        self._replacing[index] = asyncio.create_task(self._start_replacement(index))

    async def _start_replacement(self, index: int) -> None:
        ray.kill(self.handles[index])
        self.handles[index] = self._make_actor(index, self._scheduler, self._seed)
        await asyncio.wait_for(
            self.handles[index].start.remote(), self._config.start_deadline_seconds
        )
        if self.on_replaced is not None:
            await self.on_replaced()
        self.num_replaced += 1
        self._usable[index].set()
        del self._replacing[index]

    async def replace_dead(self, error: Exception) -> None:
        """Find the actors that no longer answer, replace them, and wait until all are usable.

        Args:
            error: What made the caller look; raised again if every actor answers.
        """
        handles = list(self.handles)
        answers = await asyncio.gather(
            *(asyncio.wait_for(handle.check.remote(), CHECK_SECONDS) for handle in handles),
            return_exceptions=True,
        )
        dead = [i for i, answer in enumerate(answers) if isinstance(answer, Exception)]
        if not dead and not self._replacing:
            raise error
        for index in dead:
            self._replace(index, handles[index], error)
        await asyncio.gather(*self._replacing.values())

    async def replacements(self) -> None:
        """Wait until the actors that are being replaced are usable."""
        await asyncio.gather(*self._replacing.values())

    async def close(self) -> None:
        """End engines and actors; what is already dead is left alone."""
        for task in self._replacing.values():
            task.cancel()
        closing = [handle.close.remote() for handle in self.handles]
        if closing:
            await asyncio.wait([asyncio.ensure_future(_settle(c)) for c in closing], timeout=20)
        for handle in self.handles:
            ray.kill(handle)


async def _settle(reference: Any) -> None:
    try:
        await reference
    except ray.exceptions.RayError:
        log.debug("a rollout actor was gone before it could be closed")


def ray_logs() -> str:
    """Folder with the logs of all actors on this node."""
    node: Any = ray._private.worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs"


def _is_engine_death(error: RayTaskError) -> bool:
    return type(error.cause).__name__ == "EngineDeadError"
