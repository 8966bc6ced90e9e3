"""The actors of a pool: started, replaced when they die, joined by others where there is room.

    lost -> closed -> a new one starts ---+
    room for another -> it starts --------+-> on_replaced: weights for all that are up -> open

Weights come over one group of the learners and all actors that are up. None of these waits for one
that starts (`rollout.places`): who is lost leaves the group, who is up comes into it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from rollout.admission import Admission
from rollout.config import RolloutConfig
from rollout.joining import Room
from rollout.places import Places

log = logging.getLogger(__name__)
CHECK_SECONDS = 60.0
"""An actor that does not say within this time whether it is well counts as dead."""


class LostMeanwhileError(RuntimeError):
    """An actor died while others were being brought into use."""


class Actors:
    """R rollout actors, each in a place of its own, and those that join.

    Args:
        make_actor: Creates an actor for the place with the given index.
        num_actors: R.
        config: Deadlines and retries.
        admission: Told which places may have responses.
        on_usable: Called with the index of a place whose actor may have tickets from now on.
        room: What the cluster offers beyond what the first R have.
    """

    def __init__(
        self,
        make_actor: Callable[[int], Any],
        num_actors: int,
        config: RolloutConfig,
        admission: Admission,
        on_usable: Callable[[int], None],
        room: Room | None = None,
    ) -> None:
        self._config = config
        self._admission = admission
        self._on_usable = on_usable
        self.places = Places(make_actor, num_actors, config, room or Room(), self._begin_repair)
        self._up = False
        self._holders = list(enumerate(self.handles))
        """Place and handle of those who are given weights."""
        self._broken = False
        """Whether a holder is lost, so that the others need a group without it."""
        self._repairing: asyncio.Task[None] | None = None
        self._held = False
        """Whether somebody else gives weights to all, so that nobody repairs."""
        self.num_lost = self.num_replaced = 0
        self.on_replaced: Callable[[], Awaitable[None]] | None = None

    @property
    def handles(self) -> list[Any]:
        """The actors, by place; those without room and those that were left out among them."""
        return self.places.handles

    @property
    def holders(self) -> list[Any]:
        """Those who were chosen last and are not lost since: who holds weights."""
        return [handle for index, handle in self._holders if self.handles[index] is handle]

    async def start(self, ready: Callable[[int], None]) -> dict[str, float]:
        """Start every engine, see `RolloutPool.start`."""
        times: list[dict[str, float]] = []

        async def begin(handle: Any) -> None:
            times.append(await handle.start.remote())
            ready(len(times))

        async with asyncio.timeout(self._config.start_deadline_seconds):
            await asyncio.gather(*(begin(handle) for handle in self.handles))
        self._up = True
        for index in range(len(self.handles)):
            self._use(index)
        return max(times, key=lambda t: t["total"])

    def join(self) -> None:
        """Add the places that may be; each is used as soon as the cluster has room for it."""
        for _ in range(self.places.room.num_to_add(len(self.handles))):
            self._admission.add()
            self.places.add()

    async def begin_anew(self, greet: Callable[[Any], Awaitable[object]]) -> None:
        """Give up what goes on, and have actors up and greeted, as for another run.

        What dies from now on is replaced, but gets no weights until `go_on`: whoever calls gives
        them to all that are up.

        Args:
            greet: Called with each actor that was there before.
        """
        self._held = True
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.wait({self._repairing})
            self._repairing = None
        # What is made from now on knows of the other run.
        answers = {(i, handle): greet(handle) for i, handle in self.places.present()}
        self.places.make_anew()
        await self._lose_silent(answers)
        await self.places.enough_up()

    def go_on(self) -> None:
        """Use the actors that were chosen, which have been given weights; counts begin anew."""
        self._held = False
        self._admission.forgive()
        self.finished_ticket()
        self._use_holders()
        self.num_replaced = 0
        self._begin_repair()

    def finished_ticket(self) -> None:
        """Take in that engines are of use."""
        self.places.pardon()

    def choose(self) -> list[Any]:
        """Choose who is given weights next, in a group of their own: the actors that are up.

        Raises:
            LostMeanwhileError: If there is none.
        """
        chosen = self.places.up()
        if not chosen:
            raise LostMeanwhileError("every rollout actor is being started")
        self._holders, self._broken = chosen, False
        return [handle for _, handle in chosen]

    def started(self) -> list[Any]:
        """Return the handles of all actors that are up, if none is being replaced.

        Raises:
            LostMeanwhileError: If one died, and its replacement is not up yet.
        """
        if lost := self.places.starting():
            raise LostMeanwhileError(f"rollout actors {lost} are being started")
        return [handle for _, handle in self.places.up()]

    def lose(self, index: int, handle: Any, error: Exception) -> None:
        """Replace an actor that died or hangs: once per death, whoever noticed it, however late.

        Args:
            index: Its place.
            handle: The actor; nothing happens where there is another by now, or nobody.
            error: How it died.

        Raises:
            EngineError: If it died too often without a finished ticket in between.
            Exception: `error`, if the actors are only being started for the first time.
        """
        if handle is not self.handles[index] or not self.places.has_room(index):
            return
        if not self._up:
            raise error
        if self.places.is_starting(index):
            # Its start fails then, and begins again.
            ray.kill(handle)
            return
        self._admission.close(index)
        self.num_lost += 1
        self._broken |= any(index == place for place, _ in self._holders)
        self.places.renew(index, error)
        self.places.begin(index)
        self._begin_repair()

    @property
    def _is_repairing(self) -> bool:
        return self._repairing is not None and not self._repairing.done()

    def _begin_repair(self) -> None:
        if self._up and not self._held and not self._is_repairing:
            self._repairing = asyncio.create_task(self._repair())
            # Who waits for admission hears of its failure; who waits for nothing need not.
            self._repairing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _repair(self) -> None:
        """Give weights to all that are up, until nobody is missing or lost among them."""
        try:
            while await self.places.one_up() and self._is_to_do():
                try:
                    self.choose()
                    if self.on_replaced is not None:
                        await self.on_replaced()
                except LostMeanwhileError:
                    self._broken = True
                except RayError as error:
                    known, self._broken = self._broken, True
                    await self._lose_dead(error, known=known)
                else:
                    self._use_holders()
        except Exception as error:
            self._admission.fail(error)
            raise

    def _is_to_do(self) -> bool:
        return self._broken or any(not self._admission.is_open(i) for i, _ in self.places.up())

    def _use_holders(self) -> None:
        for index, handle in self._holders:
            if self.handles[index] is not handle or self._admission.is_open(index):
                continue
            self._use(index)
            if index in self.places.joining:
                self.places.joining.discard(index)
                log.warning("rollout actor %d joins; %d are in use", index, self.num_in_use)
            else:
                self.num_replaced += 1

    def _use(self, index: int) -> None:
        self._on_usable(index)
        self._admission.open(index)

    @property
    def num_in_use(self) -> int:
        """Actors that may have tickets."""
        return self._admission.num_open

    async def replace_dead(self, error: Exception, *, known: bool = False) -> None:
        """Find the actors that no longer answer, replace them, and wait until some are usable.

        Args:
            error: What made the caller look; raised again if every actor answers.
            known: Whether one is known to be lost since the caller began.
        """
        known |= self._broken or self._is_repairing or isinstance(error, LostMeanwhileError)
        await self._lose_dead(error, known=known)
        if self._held:
            await self.places.enough_up()
        else:
            await self.settled()

    async def _lose_dead(self, error: Exception, *, known: bool) -> None:
        """Find who died; raises `error` where nobody did, nor is `known` to have."""
        # Those that are starting have nothing to say, and are replaced already.
        asked = {(i, handle): handle.check.remote() for i, handle in self.places.up()}
        if not await self._lose_silent(asked) and not known:
            raise error

    async def _lose_silent(self, asked: Mapping[tuple[int, Any], Awaitable[object]]) -> bool:
        """Replace the actors that do not answer, by place and handle; say whether there are any."""
        answers = await asyncio.gather(
            *(asyncio.wait_for(answer, CHECK_SECONDS) for answer in asked.values()),
            return_exceptions=True,
        )
        lost = {who: e for who, e in zip(asked, answers, strict=True) if isinstance(e, Exception)}
        for (index, handle), error in lost.items():
            self.lose(index, handle, error)
        return bool(lost)

    async def settled(self) -> None:
        """Wait until all actors that are up are usable, of which there is one at least."""
        while self._repairing is not None and not self._repairing.done():
            await asyncio.wait({self._repairing})
        if self._repairing is not None:
            self._repairing.result()

    async def replacements(self) -> None:
        """Wait until no actor is being replaced: all are usable, or left out."""
        await self.settled()
        while self.places.starting():
            await self.places.next_of_lost()
            self._begin_repair()
            await self.settled()

    async def close(self) -> None:
        """End engines and actors; what is already dead is left alone."""
        self._held = True
        await self.places.close()
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.gather(self._repairing, return_exceptions=True)
        closing = [handle.close.remote() for _, handle in self.places.present()]
        if closing:
            await asyncio.wait([asyncio.ensure_future(_settle(c)) for c in closing], timeout=20)
        for handle in self.handles:
            ray.kill(handle)


async def _settle(reference: Any) -> None:
    try:
        await reference
    except RayError:
        log.debug("a rollout actor was gone before it could be closed")
