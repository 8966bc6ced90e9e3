"""The actors of a pool: started, and replaced when they die, all together and as often as it helps.

    lost -> closed -> a new one starts ---+
    lost -> closed -> a new one starts ---+-> on_replaced: weights for all of them -> open again

Weights come over one group of learners and all engines, so that nobody can be given any while
another is still starting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rollout.admission import Admission
from rollout.config import RolloutConfig

log = logging.getLogger(__name__)
CHECK_SECONDS = 60.0
"""An actor that does not say within this time whether it is well counts as dead."""


class EngineError(RuntimeError):
    """Engines keep dying."""


class LostMeanwhileError(RuntimeError):
    """An actor died while others were being brought into use."""


class Actors:
    """R rollout actors, each in a place of its own.

    Args:
        make_actor: Creates an actor for the place with the given index.
        num_actors: R.
        config: Deadlines and retries.
        admission: Told which places may have responses.
        on_usable: Called with the index of a place whose actor may have tickets from now on.
    """

    def __init__(
        self,
        make_actor: Callable[[int], Any],
        num_actors: int,
        config: RolloutConfig,
        admission: Admission,
        on_usable: Callable[[int], None],
    ) -> None:
        self._make_actor = make_actor
        self._config = config
        self._admission = admission
        self._on_usable = on_usable
        self.handles = [make_actor(index) for index in range(num_actors)]
        self._up = False
        self._starting: dict[int, asyncio.Task[None]] = {}
        """By place, the starts of replacements."""
        self._repairing: asyncio.Task[None] | None = None
        self._held = False
        """Whether somebody else gives weights to all, so that nobody repairs."""
        self._deaths = [0] * num_actors
        """By place, since the last finished ticket."""
        self.num_replaced = 0
        self.on_replaced: Callable[[], Awaitable[None]] | None = None
        self.before_start: Callable[[], Awaitable[object]] | None = None

    async def start(self, ready: Callable[[int], None]) -> dict[str, float]:
        """Start every engine, see `RolloutPool.start`."""
        times: list[dict[str, float]] = []

        async def begin(handle: Any) -> None:
            times.append(await handle.start.remote())
            ready(len(times))

        starts = asyncio.gather(*(begin(handle) for handle in self.handles))
        await asyncio.wait_for(starts, self._config.start_deadline_seconds)
        self._up = True
        for index in range(len(self.handles)):
            self._use(index)
        return max(times, key=lambda t: t["total"])

    async def begin_anew(self, greet: Callable[[Any], Awaitable[object]]) -> None:
        """Give up what goes on, and have all actors up and greeted, as for another run.

        What dies from now on is replaced, but gets no weights until `go_on`: whoever calls gives
        them to all.

        Args:
            greet: Called with each actor that was there before.
        """
        self._held = True
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.wait({self._repairing})
            self._repairing = None
        # What is made from now on knows of the other run.
        answers = {(i, handle): greet(handle) for i, handle in enumerate(self.handles)}
        await self._lose_silent(answers)
        await self._all_started()

    def go_on(self) -> None:
        """Use all actors, which have been given weights; the counts begin anew."""
        self._held = False
        self._admission.forgive()
        self.finished_ticket()
        self.num_replaced = 0
        if self._starting:
            self._begin_repair()
        else:
            self._use_replaced()
            self.num_replaced = 0

    def finished_ticket(self) -> None:
        """Take in that engines are of use."""
        self._deaths = [0] * len(self.handles)

    def started(self) -> list[Any]:
        """Return the handles of all actors, which are up, if they are.

        Raises:
            LostMeanwhileError: If one died, and its replacement is not up yet.
        """
        if self._starting:
            raise LostMeanwhileError(f"rollout actors {sorted(self._starting)} are being started")
        return self.handles

    def lose(self, index: int, handle: Any, error: Exception) -> None:
        """Replace an actor that died or hangs: once per death, whoever noticed it, however late.

        Args:
            index: Its place.
            handle: The actor; nothing happens where there is another by now.
            error: How it died.

        Raises:
            EngineError: If it died too often without a finished ticket in between.
            Exception: `error`, if the actors are only being started for the first time.
        """
        if handle is not self.handles[index]:
            return
        if not self._up:
            raise error
        if index in self._starting:
            # Its start fails then, and begins again.
            ray.kill(handle)
            return
        self._admission.close(index)
        self._renew(index, error)
        self._starting[index] = asyncio.create_task(self._start(index))
        self._begin_repair()

    def _begin_repair(self) -> None:
        if not self._held and not self._is_repairing:
            self._repairing = asyncio.create_task(self._repair())
            # Who waits for admission hears of its failure; who waits for nothing need not.
            self._repairing.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def _is_repairing(self) -> bool:
        return self._repairing is not None and not self._repairing.done()

    def _renew(self, index: int, error: Exception) -> None:
        """Put a new actor, which is still to be started, in the place of one that died."""
        self._deaths[index] += 1
        ray.kill(self.handles[index])
        name, reason = f"rollout actor {index}", _reason(error)
        said = reason if reason.startswith(name) else f"{name} died: {reason}"
        if self._deaths[index] > self._config.max_retries:
            raise EngineError(
                f"{said}; it died {self._deaths[index]} times without finishing a ticket; "
                f"logs are in {ray_logs()}"
            ) from error
        log.warning("%s; it is being replaced", said)
        self.handles[index] = self._make_actor(index)

    async def _start(self, index: int) -> None:
        """Start the new actor of a place, and the next one if that dies."""
        if self.before_start is not None:
            await self.before_start()
        while True:
            try:
                await asyncio.wait_for(
                    self.handles[index].start.remote(), self._config.start_deadline_seconds
                )
                return
            except (RayError, TimeoutError) as error:
                self._renew(index, error)

    async def _repair(self) -> None:
        """Bring replacements into use; whatever dies meanwhile, of all actors, is replaced too."""
        try:
            while True:
                await self._all_started()
                try:
                    if self.on_replaced is not None:
                        await self.on_replaced()
                except LostMeanwhileError:
                    continue
                except RayError as error:
                    await self._lose_dead(error, known=bool(self._starting))
                    continue
                if not self._starting:
                    break
        except Exception as error:
            self._admission.fail(error)
            raise
        self._use_replaced()

    async def _all_started(self) -> None:
        while self._starting:
            index, starting = next(iter(self._starting.items()))
            # Whoever waits may be cancelled; the start goes on.
            await asyncio.wait({starting})
            del self._starting[index]
            starting.result()

    def _use_replaced(self) -> None:
        for index in range(len(self.handles)):
            if not self._admission.is_open(index):
                self.num_replaced += 1
                self._use(index)

    def _use(self, index: int) -> None:
        self._on_usable(index)
        self._admission.open(index)

    async def replace_dead(self, error: Exception) -> None:
        """Find the actors that no longer answer, replace them, and wait until all are usable.

        Args:
            error: What made the caller look; raised again if every actor answers.
        """
        await self._lose_dead(error, known=self._is_repairing or bool(self._starting))
        if self._held:
            await self._all_started()
        else:
            await self.replacements()

    async def _lose_dead(self, error: Exception, *, known: bool) -> None:
        """Find who died; raises `error` where nobody did, nor is `known` to have."""
        # Those that are starting have nothing to say, and are replaced already.
        asked = {
            (i, h): h.check.remote() for i, h in enumerate(self.handles) if i not in self._starting
        }
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

    async def replacements(self) -> None:
        """Wait until the actors that are being replaced are usable."""
        if self._repairing is not None:
            await asyncio.wait({self._repairing})
            self._repairing.result()

    async def close(self) -> None:
        """End engines and actors; what is already dead is left alone."""
        tasks = [*self._starting.values(), *([self._repairing] if self._repairing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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


def _reason(error: BaseException) -> str:
    """What an error says, in one line, without those that Ray adds."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return _reason(error.cause)
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
