"""How a program leaves its cluster: in time, and with nothing left behind of one started here."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import ray

from launch.run.cluster_watch import ANSWER_SECONDS, AnswersOf, ClusterWatch, ProcessesOf
from rollout.engines.files import remove_left
from rollout.heartbeat import kill
from rollout.places import ray_logs
from rollout.processes import Process, belongs, descendants, every, look

SHUTDOWN_SECONDS = 20.0
"""Longest wait for Ray to end."""
EXIT_SECONDS = 20.0
"""Longest time that the program may then take, with a Ray that did not end, to end itself."""
KILL_SECONDS = 5.0
"""Longest wait for killed processes to be gone."""
_CORE = ("gcs_server", "raylet")

_watch: ClusterWatch | None = None


def watch_of_cluster() -> ClusterWatch | None:
    """Return who watches the cluster that this process is connected to; None for nobody."""
    return _watch


def begin_watch(limit_seconds: float) -> None:
    """Watch the cluster that this process has just connected to.

    Args:
        limit_seconds: How long it may be silent.
    """
    global _watch
    if ray._private.worker._global_node is None:
        # Behind ray:// there is nothing of the cluster to be seen.
        return
    pids = _processes()
    core = {name: pids[name] for name in _CORE if name in pids}
    started = _started(pids)
    _watch = ClusterWatch(
        ProcessesOf(core) if core else _joined(),
        limit_seconds=limit_seconds,
        logs=ray_logs(),
        give_up=lambda: _give_up(pids.get("raylet", 0), started),
    )


def leave() -> None:
    """Disconnect, end a cluster that was started here, and kill what is left of it."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None
    pids = _processes()
    started = _started(pids)
    ended = in_time(SHUTDOWN_SECONDS, ray.shutdown)
    kill_cluster(pids.get("raylet", 0), started)
    if not ended:
        # What hangs in there would hang again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=nowhere)


def in_time(seconds: float, call: Callable[[], object]) -> bool:
    """Make a call that may never return; False when it has not returned within so many seconds."""
    done = threading.Event()

    def run() -> None:
        try:
            call()
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(seconds)


def kill_cluster(raylet: int, started: Sequence[Process]) -> None:
    """Kill what is left of a cluster that was started here: Ray's processes, and actors' own.

    Args:
        raylet: Its process id; 0 where the cluster was joined.
        started: What was seen of it while it lived.
    """
    if not raylet:
        return
    # Every worker is told its raylet, and tells whatever it starts.
    ours = f"RAY_RAYLET_PID={raylet}"
    left = {process.pid for process in every() if belongs(process.pid, ours)}
    left |= {p.pid for p in started if (now := look(p.pid)) and now.started == p.started}
    kill(left)
    remove_left(raylet)
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline and any(look(pid) for pid in left):
        time.sleep(0.05)


def _started(pids: Mapping[str, int]) -> list[Process]:
    """What Ray started here, and all that this started."""
    own = [process for pid in pids.values() if (process := look(pid))]
    return own + [process for pid in pids.values() for process in descendants(pid)]


def _processes() -> dict[str, int]:
    node = ray._private.worker._global_node
    if node is None:
        return {}
    return {name: started[0].process.pid for name, started in node.all_processes.items() if started}


def _joined() -> AnswersOf:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    address = str(ray.get_runtime_context().gcs_address)
    return AnswersOf(
        address, lambda: GcsClient(address=address).check_alive([], timeout=ANSWER_SECONDS)
    )


def _give_up(raylet: int, started: Sequence[Process]) -> None:
    kill_cluster(raylet, started)
    print("error: the program did not end in order after its cluster died", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
