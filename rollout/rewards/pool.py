"""Scores responses in processes of their own, each response against the clock.

    score(items) -> idle process -> reward.score -> ScoredResponse
                        |
                        +-- too late or dead: killed and replaced, the others go on

The processes are plain children with a socket each, not a multiprocessing pool: they import the
reward and nothing of the caller (a pool would import the caller's main module, in a Ray actor all
of Ray), the reward runs in their main thread, and waiting never blocks the caller's event loop.
Each is a session of its own with a supervisor (`rollout.rewards.child`), so that what a reward does
to its process, its parent or its group stays there.
"""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cost.types import RewardStatus
from rollout.rewards.types import Columns, Reward, Score

Item = tuple[str, str, str] | tuple[str, str, str, Columns]
_START_SECONDS = 120.0
_UNREAD_SECONDS = 0.1
"""For which an answer that is there may go unread after a deadline that the event loop missed."""
_END_SECONDS = 1.0
"""A supervisor that has not ended all within this time is itself killed."""


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


class RewardPool:
    """A fixed number of reward processes, shared by all calls of `score`.

    Belongs to one event loop: start, use and close it in the thread of that loop.
    """

    def __init__(
        self,
        reward: Reward,
        num_processes: int = 1,
        timeout_seconds: float = 10.0,
        max_late_in_a_row: int | None = None,
        max_dead_in_a_row: int | None = None,
    ) -> None:
        """Hold the settings; `start` starts the processes.

        Args:
            reward: Picklable, importable by the processes under the caller's `sys.path`.
            num_processes: Responses scored at the same time, at least 1.
            timeout_seconds: Wall-clock limit of one response, positive; waiting for a process
                does not count.
            max_late_in_a_row: Give up when scoring has timed out for more responses than these
                and for no other in between; None to go on for ever.
            max_dead_in_a_row: The same for responses whose scoring ended its process.

        Raises:
            ValueError: If a number is out of range.
        """
        if num_processes < 1:
            raise ValueError(f"num_processes must be at least 1, got {num_processes!r}")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds!r}")
        self._reward = pickle.dumps(reward)
        self._timeout_seconds = timeout_seconds
        self._num_processes = num_processes
        self._max_late_in_a_row = max_late_in_a_row
        self._late_in_a_row = 0
        self._max_dead_in_a_row = max_dead_in_a_row
        self._dead_in_a_row = 0
        # Free places: an idle process, or None where one has to be started.
        self._places: asyncio.Queue[_Child | None] = asyncio.Queue()
        for _ in range(num_processes):
            self._places.put_nowait(None)
        self._children: set[_Child] = set()
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
        for child in tuple(self._children):
            self._discard(child)

    async def _fill_place(self) -> None:
        child = await self._places.get()
        try:
            child = child or await self._new_child()
        finally:
            self._places.put_nowait(child)

    async def _score_one(self, item: Item) -> ScoredResponse:
        child = await self._places.get()
        healthy = False
        try:
            if child is not None and child.ended():
                # It died idle, which is no fault of this response.
                self._discard(child)
                child = None
            if child is None:
                child = await self._new_child()
            answer = await self._in_time(child.ask(item))
            healthy = True
            self._late_in_a_row = self._dead_in_a_row = 0
        except TimeoutError:
            self._dead_in_a_row = 0
            self._count_late(item)
            message = f"scoring took longer than {self._timeout_seconds} seconds"
            return ScoredResponse(None, RewardStatus.TIMED_OUT, message, message)
        except (EOFError, ConnectionError):
            assert child is not None
            self._late_in_a_row = 0
            message = f"the reward process {_end_text(await child.exit_code())}"
            self._count_dead(message, item)
            return ScoredResponse(None, RewardStatus.CRASHED, message, message)
        finally:
            if child is not None and not healthy:
                self._discard(child)
            self._places.put_nowait(child if healthy else None)
        if "error" in answer:
            return ScoredResponse(None, RewardStatus.CRASHED, answer["error"], answer["summary"])
        return ScoredResponse(Score(**answer["score"]), RewardStatus.OK, "")

    async def _in_time(self, asking: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
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

    def _count_late(self, item: Item) -> None:
        self._late_in_a_row += 1
        most = self._max_late_in_a_row
        if most is not None and self._late_in_a_row > most:
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

    async def _new_child(self) -> "_Child":
        if self._closed:
            raise RuntimeError("the reward pool is closed")
        child = await _Child.start()
        self._children.add(child)
        try:
            async with asyncio.timeout(_START_SECONDS):
                answer = await child.load(self._reward)
        except TimeoutError:
            self._discard(child)
            raise RuntimeError(
                f"a reward process took longer than {_START_SECONDS} seconds to load the reward"
            ) from None
        except (EOFError, ConnectionError):
            text = _end_text(await child.exit_code())
            self._discard(child)
            raise RuntimeError(f"a reward process {text} while it loaded the reward") from None
        except BaseException:
            self._discard(child)
            raise
        if self._closed:
            self._discard(child)
            raise RuntimeError("the reward pool is closed")
        if "error" in answer:
            self._discard(child)
            raise RuntimeError(f"a reward process cannot load the reward:\n{answer['error']}")
        return child

    def _discard(self, child: "_Child") -> None:
        self._children.discard(child)
        child.kill()


@dataclass(frozen=True, slots=True, eq=False)
class _Child:
    """A running `rollout.rewards.child` and the parent's end of its socket."""

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def start(cls) -> "_Child":
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            arguments = [f"{__package__}.child", str(descriptor), str(os.getpid())]
            import_path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                # Programs print results on stdout, and a reward must not print among them.
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": import_path},
                # Ctrl-C is the parent's to handle.
                start_new_session=True,
            )
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer)

    async def load(self, reward: bytes) -> dict[str, Any]:
        return await self._exchange(reward)

    async def ask(self, request: Item) -> dict[str, Any]:
        return await self._exchange(json.dumps(request).encode())

    async def _exchange(self, body: bytes) -> dict[str, Any]:
        self.writer.write(len(body).to_bytes(4, "big") + body)
        await self.writer.drain()
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        answer: dict[str, Any] = json.loads(await self.reader.readexactly(size))
        return answer

    def ended(self) -> bool:
        """Say whether the process is dead; it is not collected, so that its id stays its own."""
        if self.process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            return os.waitid(os.P_PID, self.process.pid, options) is not None
        except ChildProcessError:
            # Where SIGCHLD is ignored the system collects children itself.
            return True

    async def exit_code(self) -> int:
        # Python closes the socket a moment before the process ends.
        for _ in range(100):
            if self.ended():
                break
            await asyncio.sleep(0.01)
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End the process and all that it started; harmless when it is dead."""
        if self.process.returncode is None:
            # The supervisor ends what it started, daemons included.
            # Not `send_signal`, which would collect it first.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _END_SECONDS
            while not self.ended() and time.monotonic() < deadline:
                time.sleep(0.001)
            # A dead supervisor holds the number of its group until it is collected.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.writer.close()


def _end_text(code: int) -> str:
    """Say how a process ended, from its exit code or, if negative, its signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (by itself, or for want of memory)" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
