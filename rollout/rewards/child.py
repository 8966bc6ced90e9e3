"""A process that scores responses until its parent hangs up.

    caller (an actor) -> supervisor -> worker: the reward, its children, whatever it starts

Started by `rollout.rewards.pool` as `python -m rollout.rewards.child FD PARENT`. It forks at once:
the worker runs the reward, and the supervisor does nothing but end all that the worker started,
when it is told to (SIGTERM) or when the worker ends, and then ends as the worker did. A reward that
kills its parent kills the supervisor, and the caller lives on to notice.

On the socket FD the worker reads the pickled reward once and answers {} when it is ready, then
reads requests and writes answers as JSON. Each message is four bytes of length, most significant
first, and the body. What a reward prints goes to stderr, where no message passes.

    [number, [prompt_text, response_text, answer, columns]]
                           -> {"number", "score"} or {"number", "error", "summary"}; before, if it
                              is asynchronous and waits, {"number", "awaits"}: ask for another
    [number]               -> {"number", "given_up"}: what waits is cancelled, others go on
"""

import contextlib
import ctypes
import inspect
import json
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rollout.processes import die_with
from rollout.raised import own_frames
from rollout.rewards.awaited import own_loop
from rollout.rewards.returned import NoScoreError, as_score
from rollout.rewards.types import load, score_with

_PR_SET_CHILD_SUBREAPER = 36
_SUPERVISED = {signal.SIGCHLD, signal.SIGTERM}
MAX_TRACEBACK = 4000
"""Characters of a traceback that are kept, its last lines."""


def _supervise(worker: int) -> NoReturn:
    """Wait for the worker's end or for SIGTERM, end all that is left, and end likewise."""
    if sys.platform == "linux":
        # What outlives its parent becomes a child of the supervisor, daemons too.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    while signal.sigwait(_SUPERVISED) == signal.SIGCHLD:
        status = _reap(worker)
        if status is not None:
            _end_children(None)
            _end_as(os.waitstatus_to_exitcode(status))
    _end_children(worker)
    _end_as(-signal.SIGTERM)


def _reap(worker: int) -> int | None:
    """Collect the children that ended; the worker's status if it is one of them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                found = ended[1]
    return found


def _end_children(worker: int | None) -> None:
    """Kill and collect children until there are none: those of a killed one become ours.

    Args:
        worker: None once it is collected; it is all that is known where /proc does not list more.
    """
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        children = [worker] if worker else []
        with contextlib.suppress(OSError):
            children = [int(pid) for pid in listed.read_text().split()]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _end_as(code: int) -> NoReturn:
    if code < 0:
        # One core dump, of the process that failed, is enough.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _read(connection: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = connection.recv(size - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


def _receive(connection: socket.socket) -> bytes:
    return _read(connection, int.from_bytes(_read(connection, 4), "big"))


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    connection.sendall(len(body).to_bytes(4, "big") + body)


def failure(error: BaseException) -> dict[str, str]:
    """Describe what a reward raised: its traceback, and in one line where and what.

    The place is the innermost line of code that is no installed package's; where the reward
    returned and what it returned is wrong, it is the reward's own first line.
    """
    if isinstance(error, NoScoreError):
        text = f"{error.place}: {error}" if error.place else str(error)
        return {"error": text, "summary": text}
    # The first frame is this module's, and says nothing about the reward.
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    lines = traceback.format_exception(type(error), error, trace)
    what = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = [f for f in traceback.extract_tb(trace) if not f.filename.startswith("<frozen")]
    own = own_frames(trace) or frames
    place = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    text, summary = "".join(lines), f"{place}: {what}" if place else what
    if len(text) > MAX_TRACEBACK:
        # The reward's own lines are at the beginning, the packages' that it calls at the end.
        kept = text[-MAX_TRACEBACK:].partition("\n")[2]
        text = f"{summary}\n  ...\n{kept}"
    return {"error": text, "summary": summary}


def _load(connection: socket.socket) -> Any:
    """Receive the reward and let it load what it needs; None if it cannot be received."""
    body = _receive(connection)
    try:
        reward = pickle.loads(body)
    except BaseException as error:
        _send(connection, failure(error))
        return None
    # What fails here fails again for every response, where its traceback is told.
    with contextlib.suppress(BaseException):
        load(reward)
    return reward


class _Scoring:
    """Scores what is asked for: one response after the other, and meanwhile those that wait.

    Args:
        connection: To the caller.
        reward: It is called in the main thread, outside any event loop.
    """

    def __init__(self, connection: socket.socket, reward: Any) -> None:
        self._connection = connection
        self._reward = reward
        self._worker = os.getpid()
        self._loop: Any = None
        self._tasks: dict[int, Any] = {}
        """What is awaited, by number."""

    def serve(self) -> NoReturn:
        """Answer requests until the caller hangs up, which raises an EOFError."""
        home = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        while True:
            self._go_on_until_asked()
            number, *item = json.loads(_receive(self._connection))
            if not item:
                self._give_up(number)
                continue
            if not self._tasks:
                # A reward may have changed the folder, and left an alarm to go off in the next.
                os.fchdir(home)
                signal.setitimer(signal.ITIMER_REAL, 0)
            self._score(number, item[0])

    def _score(self, number: int, item: list[Any]) -> None:
        try:
            returned = score_with(self._reward, *item)
            answer = None if inspect.isawaitable(returned) else self._scored(returned)
        # Not `Exception`: no way out of a reward but the one through its return value is a score.
        except BaseException as error:
            answer = failure(error)
        if answer is None:
            self._await(number, returned)
        else:
            self._answer(number, answer)

    def _scored(self, returned: object) -> dict[str, Any]:
        return {"score": asdict(as_score(returned, self._reward.score))}

    def _await(self, number: int, returned: Any) -> None:
        """Begin with a coroutine; what it does before its first wait holds up no other."""
        self._loop = self._loop or own_loop()
        self._tasks[number] = self._loop.create_task(self._finish(number, returned))
        self._run(_one_turn())
        if number in self._tasks:
            self._answer(number, {"awaits": True})

    async def _finish(self, number: int, returned: Any) -> None:
        try:
            answer = self._scored(await returned)
        except BaseException as error:
            answer = failure(error)
        # It may have been given up, and have gone on all the same.
        if self._tasks.pop(number, None):
            self._answer(number, answer)

    def _give_up(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
            self._answer(number, {"given_up": True})

    def _go_on_until_asked(self) -> None:
        if self._loop is not None:
            self._run(_readable(self._connection, self._loop))

    def _run(self, waiting: Any) -> None:
        """Let the coroutines go on until something has come about."""
        task = self._loop.create_task(waiting)
        while not task.done():
            # Tasks that a reward has started may raise it; it reaches who waits for them, too.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_until_complete(task)

    def _answer(self, number: int, answer: Mapping[str, Any]) -> None:
        if os.getpid() != self._worker:
            # A reward that forks and lets both go on must not answer twice.
            os._exit(0)
        _send(self._connection, {"number": number, **answer})


async def _one_turn() -> None:
    """Wait until every coroutine that could go on has done so once."""
    import asyncio

    await asyncio.sleep(0)


async def _readable(connection: socket.socket, loop: Any) -> None:
    there = loop.create_future()
    loop.add_reader(connection, lambda: there.done() or there.set_result(None))
    try:
        await there
    finally:
        loop.remove_reader(connection)


def _work(connection: socket.socket) -> None:
    connection.set_inheritable(False)
    worker = os.getpid()
    reward = _load(connection)
    if os.getpid() != worker:
        os._exit(0)
    if reward is None:
        return
    _send(connection, {})
    _Scoring(connection, reward).serve()


def main() -> None:
    """Fork, and serve the socket named on the command line."""
    die_with(int(sys.argv[2]))
    connection = socket.socket(fileno=int(sys.argv[1]))
    # A caller that ignores the end of its children passes that on.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SUPERVISED)
    supervisor = os.getpid()
    worker = os.fork()
    if worker:
        connection.close()
        _supervise(worker)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    die_with(supervisor)
    try:
        _work(connection)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    main()
