"""The driver's side of R rollout actors: admit and place tickets, hear of them, replace what dies.

    ticket -> waits for room, no clock -> attempt k on an actor -> group
                                          | responses done: room for the next
                                          | nothing heard for too long: attempt k + 1

A ticket that crashes or stalls is tried again as a new attempt, with its probability, its seeds and
its place in the order; a fresh draw in its stead would favour prompts that finish. An actor
that died, or whose engine died, is replaced (`rollout.replacing`), and gets the current weights
before it gets a ticket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cost.types import LengthReport, Ticket
from rollout.admission import Admission
from rollout.config import RolloutConfig
from rollout.engines.errors import EngineDiedError
from rollout.joining import Room
from rollout.progress import Key
from rollout.replacing import Actors
from rollout.reporting import empty_report
from rollout.silence import SilenceLimit
from rollout.types import GroupRef, Prompt, Sampling

log = logging.getLogger(__name__)
LONGEST_PATIENCE_SECONDS = 10.0
"""An actor says at least this often what it has."""


@dataclass(slots=True, eq=False)
class _Placed:
    """An attempt on an actor."""

    ticket: Ticket
    index: int
    handle: Any
    num_left: int
    """Responses that take room at the engine."""
    limit: SilenceLimit | None = None
    """Set off when nothing is heard of it."""


class RolloutPool:
    """R rollout actors behind one `run`.

    Args:
        make_actor: Creates the actor with the given index; called again to replace it.
        num_actors: R.
        config: Room at an engine, deadlines and retries.
        scheduler: Handle of the SchedulerActor that reports go to; None to evaluate.
        seed: The run's seed; requests derive theirs from it.
        room: What the cluster offers beyond the first R; nothing where nobody may join.
    """

    def __init__(
        self,
        make_actor: Callable[[int, RolloutConfig, Any, int], Any],
        num_actors: int,
        config: RolloutConfig,
        scheduler: Any,
        seed: int,
        room: Room | None = None,
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._seed = seed
        self._admission = Admission(
            num_actors, full=config.engine.max_num_seqs, queued=config.max_queued_responses
        )
        self.actors = Actors(
            lambda index: make_actor(index, self._config, self._scheduler, self._seed),
            num_actors,
            config,
            self._admission,
            self._listen_to,
            room,
        )
        self._places = count()
        self._placed: dict[Key, _Placed] = {}
        self._listening: dict[int, asyncio.Task[None]] = {}
        self.num_retries = 0
        self.num_in_flight = 0
        self._num_signs = 0

    def signs(self) -> int:
        """Return how often anything was heard of any ticket, or a place could have one again."""
        return self._num_signs

    @property
    def handles(self) -> list[Any]:
        """The actors, by place."""
        return self.actors.handles

    @property
    def num_in_use(self) -> int:
        """Actors that may have tickets."""
        return self.actors.num_in_use

    @property
    def num_replaced(self) -> int:
        """Actors that were replaced in this run."""
        return self.actors.num_replaced

    async def start(self, ready: Callable[[int], None] = lambda count: None) -> dict[str, float]:
        """Start every engine side by side; returns the slowest one's seconds by part.

        Args:
            ready: Told of every engine that is ready how many are.
        """
        return await self.actors.start(ready)

    async def attach(self, config: RolloutConfig, scheduler: Any, seed: int) -> None:
        """Let all actors work for another run; none of the last one's tickets may be left.

        Whoever calls gives weights to all of them, then says `actors.go_on`.

        Args:
            config: Of that run; it may differ in `branching` and `overlong`.
            scheduler: As in the constructor.
            seed: As in the constructor.
        """
        self._config, self._scheduler, self._seed = config, scheduler, seed
        self.num_retries = 0
        await self.actors.begin_anew(lambda handle: handle.attach.remote(config, scheduler, seed))

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn one ticket into a group; an empty one after the last failed retry."""
        self.num_in_flight += 1
        try:
            answer = await self._retry(ticket, _ask_group, prompt)
        finally:
            self.num_in_flight -= 1
        if answer is None:
            # The newest attempt counts: whatever the others may still report is lost.
            last = replace(ticket, attempt=ticket.attempt + self._config.max_retries + 1)
            report = empty_report(last, prompt)
            await self._scheduler.observe.remote(report)
            return GroupRef(report=report, data=None)
        return GroupRef(*answer)

    async def evaluate(self, ticket: Ticket, prompt: Prompt, sampling: Sampling) -> LengthReport:
        """Score one prompt's responses without anyone learning from them."""
        answer = await self._retry(ticket, _ask_report, prompt, sampling)
        return answer[0] if answer is not None else empty_report(ticket, prompt)

    async def evaluate_group(self, ticket: Ticket, prompt: Prompt, sampling: Sampling) -> GroupRef:
        """Do the same, and return the group beside its report."""
        answer = await self._retry(ticket, _ask_evaluated, prompt, sampling)
        if answer is None:
            return GroupRef(report=empty_report(ticket, prompt), data=None)
        return GroupRef(*answer)

    async def _retry(
        self, ticket: Ticket, ask: Callable[..., tuple[Any, Any]], *asked: Any
    ) -> tuple[LengthReport, Any] | None:
        """Try on the least loaded usable actor; None when every try failed.

        Each try is another attempt at the same ticket: one that was given up may have reported, or
        may do so later. A ticket keeps its place among those that wait.

        Args:
            ticket: To be tried.
            ask: Sends it to an actor; returns the reference of the report, and what goes with it.
            asked: What `ask` is given besides.

        Returns:
            The report, and what goes with it.
        """
        place = next(self._places)
        for number in range(ticket.attempt, ticket.attempt + self._config.max_retries + 1):
            index = await self._admission.enter(place, ticket.num_samples)
            handle = self.handles[index]
            tried = ticket if number == ticket.attempt else replace(ticket, attempt=number)
            placed = _Placed(tried, index, handle, ticket.num_samples)
            try:
                reference, data = ask(handle, tried, *asked)
                report = await self._while_alive(placed, reference)
                self.actors.finished_ticket()
                self._num_signs += 1
                return report, data
            except TimeoutError as error:
                log.warning(
                    "attempt %d at ticket %d stalled on rollout actor %d: %s",
                    number,
                    ticket.ticket_id,
                    index,
                    str(error) or f"nothing was heard of it for {self._deadline:g} s",
                )
            except RayTaskError as error:
                # Raised in the actor, which lives: of a death in there it may be the scheduler's.
                if not isinstance(error.cause, EngineDiedError):
                    raise
                self.actors.lose(index, handle, error.cause)
            except RayActorError as error:
                self.actors.lose(index, handle, error)
            finally:
                self._admission.leave(index, placed.num_left)
            self.num_retries += 1
        log.error("ticket %d failed %d times", ticket.ticket_id, self._config.max_retries + 1)
        return None

    async def _while_alive(self, placed: _Placed, reference: Any) -> LengthReport:
        """Wait for an actor's answer as long as the actor says that it works on it."""
        key = (placed.ticket.ticket_id, placed.ticket.attempt)
        self._placed[key] = placed
        try:
            async with SilenceLimit(self._deadline) as placed.limit:
                report: LengthReport = await reference
                return report
        except (TimeoutError, asyncio.CancelledError):
            ray.cancel(reference, force=False)
            raise
        finally:
            if self._placed.get(key) is placed:
                del self._placed[key]

    @property
    def _deadline(self) -> float:
        return self._config.ticket_deadline_seconds

    def _listen_to(self, index: int) -> None:
        self._num_signs += 1
        if index in self._listening:
            self._listening[index].cancel()
        self._listening[index] = asyncio.create_task(self._listen(index, self.handles[index]))

    async def _listen(self, index: int, handle: Any) -> None:
        """Give back the room of responses that are done, and set clocks back, until it ends."""
        patience = min(LONGEST_PATIENCE_SECONDS, self._deadline / 4)
        known = 0
        try:
            # One call after the other for as long as the actor lives: no record of each is wanted.
            progress = handle.progress.options(enable_task_events=False)
            while True:
                known, num_done = await progress.remote(known, patience)
                self._hear(index, handle, num_done)
        except RayActorError:
            log.debug("rollout actor %d fell silent", index)
        except Exception:
            log.exception(
                "rollout actor %d does not say how far it is; a ticket on it has %g s in all",
                index,
                self._deadline,
            )

    def _hear(self, index: int, handle: Any, num_done: Mapping[Key, int]) -> None:
        """Take in how many responses of attempts on an actor are done, all in one."""
        gone = 0
        for key, done in num_done.items():
            placed = self._placed.get(key)
            if placed is None or placed.handle is not handle:
                continue
            self._num_signs += 1
            if placed.limit is not None:
                placed.limit.heard()
            left = placed.ticket.num_samples - done
            gone += placed.num_left - left
            placed.num_left = left
        if gone:
            self._admission.leave(index, gone)

    async def close(self) -> None:
        """End engines and actors; what is already dead is left alone."""
        listening = tuple(self._listening.values())
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        await self.actors.close()


def _ask_group(handle: Any, ticket: Ticket, prompt: Prompt) -> tuple[Any, Any]:
    report, data = handle.run.options(num_returns=2).remote(ticket, prompt)
    return report, data


def _ask_report(
    handle: Any, ticket: Ticket, prompt: Prompt, sampling: Sampling
) -> tuple[Any, None]:
    return handle.evaluate.remote(ticket, prompt, sampling), None


def _ask_evaluated(
    handle: Any, ticket: Ticket, prompt: Prompt, sampling: Sampling
) -> tuple[Any, Any]:
    asked = handle.evaluate_group.options(num_returns=2)
    report, data = asked.remote(ticket, prompt, sampling)
    return report, data
