"""Places for the actors of a pool: who is in each, and how a new one comes to be up.

added or lost -> room in the cluster -> its node is looked at -> starts -> up
                 | none: see `rollout.joining`                   | dies: another one
                 +-> left out
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rollout.config import RolloutConfig
from rollout.joining import NoRoomError, Room, UnfitError, waits_on

log = logging.getLogger(__name__)
AGAIN_SECONDS = 1.0
"""Between two actors of a place that has no room."""


class EngineError(RuntimeError):
    """Engines keep dying, or none is left."""


class Places:
    """R places, and those that are added.

    Args:
        make_actor: Creates an actor for the place with the given index.
        number: R.
        config: Deadlines and retries.
        room: What the cluster offers beyond the first R, which have theirs.
        on_up: Called whenever an actor is up, or its place is left out.
    """

    def __init__(
        self,
        make_actor: Callable[[int], Any],
        number: int,
        config: RolloutConfig,
        room: Room,
        on_up: Callable[[], None],
    ) -> None:
        self._make_actor, self._config, self._on_up = make_actor, config, on_up
        self.room = room
        self.handles = [make_actor(index) for index in range(number)]
        self._starting: dict[int, asyncio.Task[None]] = {}
        """By place, the starts of replacements and of those that join."""
        self._roomless: set[int] = set()
        """Those whose actor has no room yet."""
        self._left_out: set[int] = set()
        self.joining: set[int] = set()
        """Those that wait for as long as it takes, and were not in use since they do."""
        self._deaths: Counter[int] = Counter()
        """By place, since the last finished ticket."""
        self.before_start: Callable[[], Awaitable[object]] | None = None

    def has_room(self, index: int) -> bool:
        """Return whether a place has an actor that has room."""
        return index not in self._roomless and index not in self._left_out

    def present(self) -> list[tuple[int, Any]]:
        """Return place and handle of every actor that has room."""
        return [(i, handle) for i, handle in enumerate(self.handles) if self.has_room(i)]

    def up(self) -> list[tuple[int, Any]]:
        """Return place and handle of every actor that is up, as of the last `take_started`."""
        return [(i, handle) for i, handle in self.present() if i not in self._starting]

    def starting(self) -> list[int]:
        """Return the places that get a new actor in the place of one that was lost."""
        return sorted(set(self._starting) - self.joining)

    def is_starting(self, index: int) -> bool:
        """Return whether the actor of a place is not up yet."""
        return index in self._starting

    def num_others(self, index: int) -> int:
        """Return how many other places have room."""
        return sum(i != index for i, _ in self.present())

    def add(self) -> None:
        """Add a place, whose actor joins when there is room."""
        index = len(self.handles)
        self.joining.add(index)
        self.handles.append(self._make_actor(index))
        self.begin(index)

    def begin(self, index: int) -> None:
        """Begin to start the new actor of a place."""
        self._roomless.add(index)
        self._starting[index] = asyncio.create_task(self._start(index))
        self._starting[index].add_done_callback(lambda _: self._on_up())

    def make_anew(self) -> None:
        """Make those anew that have no room, and can therefore be told nothing."""
        for index in tuple(self._roomless):
            self._starting[index].cancel()
            ray.kill(self.handles[index])
            self.handles[index] = self._make_actor(index)
            self.begin(index)

    def renew(self, index: int, error: Exception) -> None:
        """Put a new actor, which is still to be started, in the place of one that died.

        Args:
            index: The place.
            error: How it died.

        Raises:
            EngineError: If it died too often without a finished ticket in between.
        """
        self._deaths[index] += 1
        ray.kill(self.handles[index])
        name, reason = f"rollout actor {index}", reason_of(error)
        said = reason if reason.startswith(name) else f"{name} died: {reason}"
        if self._deaths[index] > self._config.max_retries:
            raise EngineError(
                f"{said}; it died {self._deaths[index]} times without finishing a ticket; "
                f"logs are in {ray_logs()}"
            ) from error
        log.warning("%s; it is being replaced", said)
        self.handles[index] = self._make_actor(index)

    async def _renew_roomless(self, index: int) -> None:
        """Put a new actor in the place of one that was lost before it had room.

        So is one that Ray had sent to a node which it did not know to be dead yet.
        """
        ray.kill(self.handles[index])
        await asyncio.sleep(AGAIN_SECONDS)
        self.handles[index] = self._make_actor(index)

    def pardon(self) -> None:
        """Take in that engines are of use."""
        self._deaths.clear()

    async def _start(self, index: int) -> None:
        """Start the new actor of a place, and the next one if that dies."""
        if self.before_start is not None:
            await self.before_start()
        now = asyncio.get_running_loop().time
        patient_until = now() + self.room.deadline_seconds
        while True:
            try:
                await self._find_room(index, self.handles[index])
                await asyncio.wait_for(
                    self.handles[index].start.remote(), self._config.start_deadline_seconds
                )
                return
            except NoRoomError as error:
                if not self.num_others(index):
                    raise EngineError(f"rollout actor {index}, the last one: {error}") from error
                return self._leave_out(index, str(error))
            except (RayError, TimeoutError) as error:
                if index in self._roomless and now() < patient_until:
                    await self._renew_roomless(index)
                    continue
                often = self._deaths[index] >= self._config.max_retries
                if often and index in self.joining and self.num_others(index):
                    return self._leave_out(index, reason_of(error))
                self.renew(index, error)
                self._roomless.add(index)

    async def _find_room(self, index: int, handle: Any) -> None:
        """Wait until a place's actor, which answers as soon as it has room, is on a fit node.

        Raises:
            NoRoomError: If it is not waited for any longer.
            ray.exceptions.RayError: If the actor died.
        """
        placed = asyncio.ensure_future(_answer(handle.node.remote()))
        try:
            while not placed.done():
                limit = None if index in self.joining else self.room.deadline_seconds
                await asyncio.wait({placed}, timeout=limit)
                if not placed.done():
                    others = self.num_others(index)
                    if not waits_on(joins=self.room.most > 0, num_others=others):
                        raise NoRoomError("the cluster has no room for it")
                    said = "rollout actor %d finds no room; %d go on without it until there is some"
                    log.warning(said, index, others)
                    self.joining.add(index)
            node = placed.result()
        finally:
            placed.cancel()
        if self.room.look_at is not None:
            try:
                await self.room.look_at(node)
            except UnfitError as error:
                raise NoRoomError(str(error)) from error
        self._roomless.discard(index)

    def _leave_out(self, index: int, why: str) -> None:
        log.warning("rollout actor %d is left out: %s", index, why)
        self._left_out.add(index)
        self._roomless.discard(index)
        ray.kill(self.handles[index])
        self.room.give_back(index)

    def take_started(self) -> None:
        """Take in who is up by now.

        Raises:
            EngineError: If one died too often, or the last one has no room.
        """
        for index, starting in tuple(self._starting.items()):
            if starting.done():
                del self._starting[index]
                starting.result()

    async def one_up(self) -> bool:
        """Wait until an actor is up; False where none will be."""
        self.take_started()
        while not self.up():
            if not self._starting:
                return False
            await self._next(self._starting.values())
        return True

    async def enough_up(self) -> None:
        """Wait for all that have room, and in any case for one."""
        await self.one_up()
        while waited_for := [t for i, t in self._starting.items() if self.has_room(i)]:
            await self._next(waited_for)

    async def next_of_lost(self) -> None:
        """Wait until one more of those that were lost is up or left out, if there is any."""
        if lost := [self._starting[index] for index in self.starting()]:
            await self._next(lost)

    async def _next(self, starting: Iterable[asyncio.Task[None]]) -> None:
        # Whoever waits may be cancelled; the start goes on.
        await asyncio.wait(list(starting), return_when=asyncio.FIRST_COMPLETED)
        self.take_started()

    async def close(self) -> None:
        """Start nobody any more."""
        for starting in self._starting.values():
            starting.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)


async def _answer(reference: Any) -> Any:
    return await reference


def ray_logs() -> str:
    """Folder with the logs of all actors on this node."""
    node: Any = ray._private.worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs"


def reason_of(error: BaseException) -> str:
    """Return what an error says, in one line, without those that Ray adds."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return reason_of(error.cause)
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
