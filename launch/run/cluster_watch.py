"""Whether the cluster itself lives, watched by a thread: Ray's calls may block the event loop.

GCS and raylet of a cluster started here -> their processes: gone, or stopped for too long
GCS of a cluster that was joined         -> a connection and a question, unanswered for too long
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from launch.run.deaths import PartDied
from rollout.processes import look

CLUSTER = "cluster"
"""What it is called as a part of a run."""
LOOK_SECONDS = 1.0
END_SECONDS = 90.0
"""Longest time that the program may then take to end in order; Ray ends it a minute after its GCS
is gone, without a word."""
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5
MOST_SECONDS = LOOK_SECONDS + CONNECT_SECONDS + ANSWER_SECONDS
"""What one look can take."""
log = logging.getLogger(__name__)


class ProcessesOf:
    """Looks at the processes of a cluster that was started here.

    Args:
        pids: By name.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._first = {name: look(pid) for name, pid in pids.items()}
        self._stopped: dict[str, float] = {}

    def look(self, seconds: float, limit_seconds: float) -> str:
        """Say how the cluster died, or "".

        Args:
            seconds: Since the last look.
            limit_seconds: How long one may be stopped.
        """
        for name, pid in self._pids.items():
            process, first = look(pid), self._first[name]
            if process is None or first is None or process.started != first.started:
                return f"died: its {name} is gone"
            stopped = self._stopped.get(name, 0.0) + seconds if process.stopped else 0.0
            self._stopped[name] = stopped
            if stopped >= limit_seconds:
                # Ray's calls wait for what is stopped, and fail once it is gone.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return f"does not answer for {stopped:.0f} s: its {name} is stopped"
        return ""


class AnswersOf:
    """Asks the GCS of a cluster that was joined.

    Args:
        address: HOST:PORT of its GCS.
        ask: Asks it something; raises, or takes long, where it does not answer.
    """

    def __init__(self, address: str, ask: Callable[[], object]) -> None:
        self._address = address
        self._ask = ask
        self._silent = 0.0

    def look(self, seconds: float, limit_seconds: float) -> str:
        """Say how the cluster died, or ""; see `ProcessesOf.look`."""
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            self._ask()
        except Exception:
            self._silent += seconds
            if self._silent >= limit_seconds:
                return f"does not answer for {self._silent:.0f} s: its GCS at {self._address}"
            return ""
        self._silent = 0.0
        return ""


class ClusterWatch:
    """Watches the cluster until `close`, and sees to it that the program ends after its death.

    Args:
        cluster: Looks at it.
        limit_seconds: How long it may be silent.
        logs: Folder with the logs of all.
        give_up: Ends the process when it does not end in order; returns nothing.
    """

    def __init__(
        self,
        cluster: ProcessesOf | AnswersOf,
        *,
        limit_seconds: float,
        logs: str,
        give_up: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._limit = limit_seconds
        self._logs = logs
        self._give_up = give_up
        self._closed = threading.Event()
        self._listeners: list[Callable[[PartDied], None]] = []
        self._lock = threading.Lock()
        self.died: PartDied | None = None
        threading.Thread(target=self._watch, name="cluster-watch", daemon=True).start()

    def listen(self, listener: Callable[[PartDied], None]) -> None:
        """Have something called, in the watching thread, when the cluster dies or if it has."""
        with self._lock:
            self._listeners.append(listener)
            died = self.died
        if died is not None:
            listener(died)

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _watch(self) -> None:
        how, before = "", time.monotonic()
        while not how:
            if self._closed.wait(LOOK_SECONDS):
                return
            # Counted in looks, so that a process that stood still does not find everything silent.
            seconds, before = min(time.monotonic() - before, MOST_SECONDS), time.monotonic()
            how = self._cluster.look(seconds, self._limit)
        died = PartDied(CLUSTER, how, self._logs)
        # At once: what Ray does in this process may end it before anybody else can say so.
        log.error("%s", died)
        with self._lock:
            self.died = died
            listeners = list(self._listeners)
        for listener in listeners:
            with suppress(RuntimeError):
                listener(died)
        if not self._closed.wait(END_SECONDS):
            self._give_up()
