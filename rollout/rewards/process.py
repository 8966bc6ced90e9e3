"""The caller's end of a reward process, which scores one response, or several that wait."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from rollout.rewards.types import Columns

Item = tuple[str, str, str] | tuple[str, str, str, Columns]
"""The arguments of `Reward.score`: prompt text, response text, answer, and further columns."""
Message = dict[str, Any]
_END_SECONDS = 1.0
"""A supervisor that has not ended all within this time is itself killed."""
_GIVE_UP_SECONDS = 1.0
"""For which a process may take no notice; something in it then holds up all that it scores."""


class RewardProcess:
    """A running `rollout.rewards.child`, see there for what passes."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Queue[Message | None]] = {}
        """What was heard of the responses that it scores, by number; None that it ended."""
        self._listening: asyncio.Task[None] | None = None
        self._has_hung_up = False
        self.most_at_once = 0
        """Most responses that it has scored at the same time."""
        self.ended_with_several = False
        """Whether several were being scored when it ended: any may have been why."""

    @classmethod
    async def start(cls) -> Self:
        """Start a process; `load` must be called next."""
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

    async def load(self, reward: bytes) -> Message:
        """Let it load the pickled reward; it answers {}, or with an `error`."""
        await self._send(reward)
        answer = await self._receive()
        self._listening = asyncio.create_task(self._listen())
        return answer

    @property
    def num_open(self) -> int:
        """Number of responses that it scores."""
        return len(self._open)

    def ask(self, item: Item) -> "Asked":
        """Return a response to be scored; it counts as one of `num_open` until it is closed."""
        number = next(self._numbers)
        self._open[number] = asyncio.Queue()
        self.most_at_once = max(self.most_at_once, self.num_open)
        return Asked(self, number, item)

    async def send(self, message: object) -> None:
        """Send a message."""
        await self._send(json.dumps(message).encode())

    async def heard(self, number: int) -> Message:
        """Wait for the next message about a response.

        Raises:
            EOFError: If the process has ended.
        """
        message = await self._open[number].get()
        if message is None:
            raise EOFError
        return message

    def close(self, number: int) -> None:
        """Hear no more of a response."""
        del self._open[number]

    async def _send(self, body: bytes) -> None:
        self._writer.write(len(body).to_bytes(4, "big") + body)
        await self._writer.drain()

    async def _receive(self) -> Message:
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        answer: Message = json.loads(await self._reader.readexactly(size))
        return answer

    async def _listen(self) -> None:
        try:
            while True:
                message = await self._receive()
                if message["number"] in self._open:
                    self._open[message["number"]].put_nowait(message)
        except (EOFError, ConnectionError):
            pass
        finally:
            self._has_hung_up = True
            self.ended_with_several |= self.num_open > 1
            for heard in self._open.values():
                heard.put_nowait(None)

    def ended(self) -> bool:
        """Say whether it can be asked nothing any more."""
        return self._has_hung_up or self._is_dead()

    def _is_dead(self) -> bool:
        """Say whether the process is dead; it is not collected, so that its id stays its own."""
        if self._process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        except ChildProcessError:
            # Where SIGCHLD is ignored the system collects children itself.
            return True

    async def end_text(self) -> str:
        """Say how the process ended, from its exit code or its signal."""
        # Python closes the socket a moment before the process ends.
        for _ in range(100):
            if self._is_dead():
                break
            await asyncio.sleep(0.01)
        self.kill()
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        hint = " (by itself, or for want of memory)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def kill(self) -> None:
        """End the process and all that it started; harmless when it is dead."""
        self.ended_with_several |= self.num_open > 1
        if self._process.returncode is None:
            # The supervisor ends what it started, daemons included.
            # Not `send_signal`, which would collect it first.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _END_SECONDS
            while not self._is_dead() and time.monotonic() < deadline:
                time.sleep(0.001)
            # A dead supervisor holds the number of its group until it is collected.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._writer.close()


class Asked:
    """A response that a process scores."""

    def __init__(self, process: RewardProcess, number: int, item: Item) -> None:
        self._process = process
        self._number = number
        self._item = item
        self.waits = False
        """Whether its reward waits for something, so that the process can score others."""

    async def answer(self, waits: Callable[[], None]) -> Message:
        """Send it and return what the process answers.

        Args:
            waits: Called if its reward waits for something.

        Raises:
            EOFError, ConnectionError: If the process has ended.
        """
        await self._process.send([self._number, self._item])
        message = await self._process.heard(self._number)
        if "awaits" in message:
            self.waits = True
            waits()
            message = await self._process.heard(self._number)
        return message

    async def give_up(self) -> bool:
        """Let the process cancel it and go on with others; False if it takes no notice."""
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await self._process.send([self._number])
                # It may have answered in the meantime, too.
                await self._process.heard(self._number)
        except (TimeoutError, EOFError, ConnectionError):
            return False
        return True

    def close(self) -> None:
        """Hear no more of it."""
        self._process.close(self._number)
