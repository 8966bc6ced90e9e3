"""Calls that may block, made one after another beside the run.

    put(call) -> at most `most_waiting` that wait -> one thread -> a server
    what failed there ------------------------------> raised by the next put, or by close

A server that does not answer would otherwise hold up the event loop that everything of a run
goes on in.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

MOST_WAITING = 64
"""Calls that wait; what comes beyond them is left out."""
CLOSE_SECONDS = 30.0
"""Longest wait at a run's end for what was not sent."""


class BackgroundCalls:
    """Makes calls in a thread of its own.

    Args:
        most_waiting: Calls that may wait.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        # None is behind the last call.
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(most_waiting)
        self._given_up = threading.Event()
        self._failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        # A daemon, since a program that ends must not wait for the server.
        self._thread = threading.Thread(target=self._work, daemon=True, name="background-calls")
        self._thread.start()

    def put(self, call: Callable[[], object]) -> None:
        """Have a call made after those that wait.

        Raises:
            TimeoutError: If too many wait, and this one is left out.
            Exception: What an earlier call failed with; this one is made nonetheless.
        """
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise TimeoutError(
                f"{self._calls.maxsize} calls wait for an answer, and this one is left out"
            ) from None
        self._raise_first_failure()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait for what was put, but not for longer than so many seconds.

        Raises:
            TimeoutError: If it took longer; what waits then is left out.
            Exception: What an earlier call failed with.
        """
        until = time.monotonic() + seconds
        # Where there is no room until then the thread is not at its end, which is said below.
        with suppress(queue.Full):
            self._calls.put(None, timeout=seconds)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._given_up.set()
            raise TimeoutError(f"no answer within {seconds:g} seconds, and the rest is left out")
        self._raise_first_failure()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self._given_up.is_set():
            try:
                call()
            except Exception as error:
                self._failures.put(error)

    def _raise_first_failure(self) -> None:
        if self._failures.empty():
            return
        first = self._failures.get()
        while not self._failures.empty():
            self._failures.get()
        raise first
