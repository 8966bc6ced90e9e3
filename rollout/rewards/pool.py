"""Scores responses in processes of their own, each response against the clock.

    score(items) -> free process -> reward.score -> ScoredResponse
                        |
                        +-- too late or dead: killed and replaced, the others go on

The processes are plain children with a socket each, not a multiprocessing pool: they import the
reward and nothing of the caller (a pool would import the caller's main module, in a Ray actor all
of Ray), the reward runs in their main thread, and waiting never blocks the caller's event loop.
Each is a session of its own with a supervisor (`rollout.rewards.child`), so that what a reward does
to its process, its parent or its group stays there.

A process whose asynchronous reward waits, say for a server, is free for further responses. Where
one of several is too late it alone is given up; where their process ends, or is deaf to that, each
is scored once more by itself, and so none is charged with what another did.
"""

import asyncio
import pickle
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cost.types import RewardStatus
from rollout.rewards.process import Item, Message, RewardProcess
from rollout.rewards.types import Reward, Score

_START_SECONDS = 120.0
_UNREAD_SECONDS = 0.1
"""For which an answer that is there may go unread after a deadline that the event loop missed."""


class HopelessRewardError(RuntimeError):
    """Scoring has failed in one way so often in a row that no other outcome is in sight."""


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """How the scoring of one response ended."""

    score: Score | None
    """What the reward returned; None unless `status` is OK."""
    status: RewardStatus
    error: str
    """The reward's traceback, or what became of its process; "" when `status` is OK."""
    summary: str = ""
    """The same in one line, file and line of the reward first where they are known."""


@dataclass(slots=True, eq=False)
class _Place:
    """Where a process is, or has to be started."""

    most: int
    """Responses that its process may score at the same time, as far as it waits; 0 for a place
    that is never offered."""
    process: RewardProcess | None = None
    is_offered: bool = False
    is_taken: bool = False
    """Whether somebody starts its process, or keeps that busy."""

    @property
    def is_free(self) -> bool:
        num_open = self.process.num_open if self.process else 0
        return not self.is_offered and not self.is_taken and num_open < self.most


class RewardPool:
    """A fixed number of reward processes, shared by all calls of `score`.

    Belongs to one event loop: start, use and close it in the thread of that loop.
    """

    def __init__(
        self,
        reward: Reward,
        num_processes: int = 1,
        timeout_seconds: float = 10.0,
        concurrency: int = 16,
        max_late_in_a_row: int | None = None,
        max_dead_in_a_row: int | None = None,
    ) -> None:
        """Hold the settings; `start` starts the processes.

        Args:
            reward: Picklable, importable by the processes under the caller's `sys.path`.
            num_processes: At least 1.
            timeout_seconds: Wall-clock limit of one response, positive; waiting for a process
                does not count.
            concurrency: Responses that a process may score at the same time where the reward is
                asynchronous, at least 1.
            max_late_in_a_row: Give up when scoring has timed out for more responses than these
                and for no other in between; None to go on for ever.
            max_dead_in_a_row: The same for responses whose scoring ended its process.

        Raises:
            ValueError: If a number is out of range.
        """
        if num_processes < 1:
            raise ValueError(f"num_processes must be at least 1, got {num_processes!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency!r}")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds!r}")
        self._reward = pickle.dumps(reward)
        self._timeout_seconds = timeout_seconds
        self._num_processes = num_processes
        self._max_late_in_a_row = max_late_in_a_row
        self._late_in_a_row = 0
        self._max_dead_in_a_row = max_dead_in_a_row
        self._dead_in_a_row = 0
        self._places: asyncio.Queue[_Place] = asyncio.Queue()
        for _ in range(num_processes):
            self._offer(_Place(most=concurrency))
        self._processes: set[RewardProcess] = set()
        self._by_itself = asyncio.Lock()
        """Held by the one response that is scored once more."""
        self._closed = False

    async def start(self) -> None:
        """Start all processes and wait until each has loaded the reward; a second call is harmless.

        Raises:
            RuntimeError: If a process cannot load the reward, with its traceback.
        """
        outcomes = await asyncio.gather(
            *(self._fill_place() for _ in range(self._num_processes)), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def score(self, items: Sequence[Item]) -> list[ScoredResponse]:
        """Score responses, in order; a slow or failing one spoils no other.

        Args:
            items: (prompt_text, response_text, answer) of each, the arguments of `Reward.score`,
                and the row's further columns where there are any.

        Raises:
            RuntimeError: If the pool is closed, or a process cannot load the reward.
            HopelessRewardError: If scoring has only timed out, or ended its process, for too long.
        """
        if self._closed:
            raise RuntimeError("the reward pool is closed")
        return list(await asyncio.gather(*(self._score_one(item) for item in items)))

    def close(self) -> None:
        """Kill all processes for good; calls under way fail."""
        self._closed = True
        for process in tuple(self._processes):
            self._discard(process)

    def _offer(self, place: _Place) -> None:
        if place.is_free:
            place.is_offered = True
            self._places.put_nowait(place)

    async def _take(self) -> _Place:
        place = await self._places.get()
        place.is_offered, place.is_taken = False, True
        return place

    def _leave(self, place: _Place) -> None:
        place.is_taken = False
        self._offer(place)

    async def _fill_place(self) -> None:
        place = await self._take()
        try:
            await self._process_at(place)
        finally:
            self._leave(place)

    async def _process_at(self, place: _Place) -> RewardProcess:
        """Return the process of a place; if there is none, or a dead one, start it."""
        if place.process is not None and place.process.ended():
            # It died idle, which is no fault of this response.
            self._discard(place.process)
            place.process = None
        if place.process is None:
            place.process = await self._new_process()
        return place.process

    async def _score_one(self, item: Item) -> ScoredResponse:
        scored = await self._score_at(await self._take(), item)
        if scored is None:
            async with self._by_itself:
                own = _Place(most=0, is_taken=True)
                try:
                    scored = await self._score_at(own, item)
                finally:
                    if own.process is not None:
                        self._discard(own.process)
            assert scored is not None
        return scored

    async def _score_at(self, place: _Place, item: Item) -> ScoredResponse | None:
        """Score a response at a place that was taken for it.

        Returns:
            None if the process ended and scored others too, any of which may be why.
        """
        try:
            process = await self._process_at(place)
        except BaseException:
            self._leave(place)
            raise
        asked, healthy = process.ask(item), False
        try:
            answer = await self._in_time(asked.answer(lambda: self._leave(place)))
            healthy = True
            self._late_in_a_row = self._dead_in_a_row = 0
        except TimeoutError:
            several = process.num_open > 1
            healthy = several and asked.waits and await asked.give_up()
            if several and not healthy:
                return None
            self._dead_in_a_row = 0
            self._count_late(item, process.most_at_once)
            message = f"scoring took longer than {self._timeout_seconds} seconds"
            return ScoredResponse(None, RewardStatus.TIMED_OUT, message, message)
        except (EOFError, ConnectionError):
            message = f"the reward process {await process.end_text()}"
            if process.ended_with_several:
                return None
            self._late_in_a_row = 0
            self._count_dead(message, item)
            return ScoredResponse(None, RewardStatus.CRASHED, message, message)
        finally:
            if not healthy:
                self._discard(process)
                if place.process is process:
                    place.process = None
            asked.close()
            if asked.waits:
                self._offer(place)
            else:
                self._leave(place)
        if "error" in answer:
            return ScoredResponse(None, RewardStatus.CRASHED, answer["error"], answer["summary"])
        return ScoredResponse(Score(**answer["score"]), RewardStatus.OK, "")

    async def _in_time(self, asking: Coroutine[Any, Any, Message]) -> Message:
        """Wait for an answer, and look once more for one that has come before giving up.

        Where something else held the event loop until after the deadline, the answer lies unread.
        """
        task = asyncio.create_task(asking)
        try:
            for seconds in (self._timeout_seconds, _UNREAD_SECONDS):
                done, _ = await asyncio.wait({task}, timeout=seconds)
                if done:
                    return task.result()
        finally:
            task.cancel()
        raise TimeoutError

    def _count_late(self, item: Item, at_once: int) -> None:
        self._late_in_a_row += 1
        most = self._max_late_in_a_row
        # Those that were scored side by side were late in the time of one.
        if most is not None and self._late_in_a_row > most * at_once:
            raise HopelessRewardError(
                f"scoring took longer than rollout.reward_timeout_seconds = "
                f"{self._timeout_seconds:g} for {self._late_in_a_row} responses in a row; make the "
                f"reward faster, or raise the limit; the last response: {item[1][-500:]!r}"
            )

    def _count_dead(self, message: str, item: Item) -> None:
        self._dead_in_a_row += 1
        most = self._max_dead_in_a_row
        if most is not None and self._dead_in_a_row > most:
            raise HopelessRewardError(
                f"the reward must not end its process, or its parent: {message} for "
                f"{self._dead_in_a_row} responses in a row; correct it, or set "
                f"rollout.reward_max_crashed_share=1; the last response: {item[1][-500:]!r}"
            )

    async def _new_process(self) -> RewardProcess:
        if self._closed:
            raise RuntimeError("the reward pool is closed")
        process = await RewardProcess.start()
        self._processes.add(process)
        try:
            async with asyncio.timeout(_START_SECONDS):
                answer = await process.load(self._reward)
        except TimeoutError:
            self._discard(process)
            raise RuntimeError(
                f"a reward process took longer than {_START_SECONDS} seconds to load the reward"
            ) from None
        except (EOFError, ConnectionError):
            text = await process.end_text()
            self._discard(process)
            raise RuntimeError(f"a reward process {text} while it loaded the reward") from None
        except BaseException:
            self._discard(process)
            raise
        if self._closed:
            self._discard(process)
            raise RuntimeError("the reward pool is closed")
        if "error" in answer:
            self._discard(process)
            raise RuntimeError(f"a reward process cannot load the reward:\n{answer['error']}")
        return process

    def _discard(self, process: RewardProcess) -> None:
        self._processes.discard(process)
        process.kill()
