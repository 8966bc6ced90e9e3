"""Join or start a Ray cluster."""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services, utils, worker
from ray.exceptions import RayError

from conf.resources import ResourcesConfig
from launch.cli.refusals import RunError, UserError
from launch.cli.signals import handled, hangups_held, ignore, interrupt
from launch.cli.visible import from_ray
from launch.record.notices import why
from launch.run.auth_token import keep_token_private
from launch.run.cluster_shutdown import begin_watch, leave, watch_of_cluster
from launch.run.interruption import stopped
from launch.run.machine import STORE_PART, raise_open_files, require_addresses, store_options
from launch.run.parity import ParityError
from launch.run.standstill import ended_after
from rollout.places import EngineError, ray_logs
from rollout.rewards.pool import HopelessRewardError

CONNECT_SECONDS = 10.0
START_TRIES = 3
JOIN_SECONDS = 180.0
"""For one call of `ray.init`. The first program on a cluster is taken in when as many workers run
as its node has CPUs, each of which Ray gives 60 s; where one dies instead, it never returns."""
NO_ANSWER = (ConnectionError, TimeoutError)
"""Of the errors that are OSErrors, those that are of no file."""
TOO_SLOW = ("timed out during startup", "Timed out waiting for file")
"""What Ray says of a cluster that did not start in time: its nodes, or its own processes."""
DEATH = "A worker died or was killed while executing a task"
TASK_EVENTS = {
    "RAY_task_events_max_num_task_in_gcs": "4000",
    "RAY_task_events_max_dropped_task_attempts_tracked_per_job_in_gcs": "10000",
}
"""What a cluster that is started here remembers of tasks that are over: Ray would keep 100,000, at
about 3.5 kB of its head's memory each."""
ON_LOOPBACK = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "=lo",
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Where the processes of a cluster of one machine listen for each other; Ray's own see `_start`."""


def leave_deaths_to_us() -> None:
    """Keep Ray's own line on a worker that died off the terminal, where ours is to come first.

    Ours names the part, its log and what happens next. Whatever else Ray has to say, such as that
    memory ran out, is printed.
    """
    printed = worker.print_to_stdstream
    if getattr(printed, "leaves_deaths", False):
        return

    def print_others(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [line for line in data["lines"] if not str(line).startswith(DEATH)]
        if lines:
            printed({**data, "lines": lines}, ignore_prefix)

    print_others.leaves_deaths = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = print_others


def connect(resources: ResourcesConfig) -> None:
    """Join the cluster of `resources.address` or RAY_ADDRESS, or start one on this machine.

    A cluster started here gets as many CPUs as the run asks for: its processes share the machine's
    cores, and on a small one the sum may well exceed them. Nothing of it listens on any other
    interface than loopback, and it asks for this user's token.

    Raises:
        RunError: If Ray does not start.
        UserError: If no cluster can be joined, or the machine has too little for one.
    """
    # Where work is given up, nobody waits for what it had asked for.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Ray starts its workers at nice 15, where engines and learners lose to any other process.
    os.environ.setdefault("RAY_worker_niceness", "0")
    leave_deaths_to_us()
    address = resources.address or os.environ.get("RAY_ADDRESS")
    # Actors import the project from where this process does.
    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address:
        _require_answer(address)
        try:
            _init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise UserError(
                f"no Ray cluster can be joined at {address!r} (resources.address or RAY_ADDRESS): "
                f"{' '.join(str(error).split())}"
            ) from error
        return
    for name, value in (TASK_EVENTS | ON_LOOPBACK).items():
        os.environ.setdefault(name, value)
    keep_token_private()
    asked = (
        resources.num_engines * resources.engine_cpus
        + resources.num_learners * resources.learner_cpus
    )
    raise_open_files()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    common |= store_options(shutil.disk_usage("/dev/shm").free, memory)
    require_addresses(common.get("object_store_memory", memory * STORE_PART))
    _start_in_tries(
        num_cpus=max(os.cpu_count() or 1, math.ceil(asked)),
        include_dashboard=resources.dashboard,
        **common,
    )


def _start_in_tries(**options: Any) -> None:
    for tries_left in reversed(range(START_TRIES)):
        try:
            _start(**options)
            return
        except Exception as error:
            if isinstance(error, OSError | UnicodeError) and not isinstance(error, NO_ANSWER):
                folder = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
                raise UserError(
                    "RAY_TMPDIR, or TMPDIR without it, must be a folder that can be written, with "
                    f"a path of ASCII as short as that of /tmp, got {folder!r}: {why(error)}"
                ) from error
            # Ray gives its own processes a fixed 30 s to start, too little on a busy machine, and
            # says so with a bare Exception.
            if not any(said in str(error) for said in TOO_SLOW):
                raise
            if not tries_left:
                logs = f"{get_default_ray_temp_dir()}/session_latest/logs"  # type: ignore[no-untyped-call]
                raise RunError(
                    f"Ray did not start on this machine in {START_TRIES} tries; wait until the "
                    "machine is less busy, raise the limit of processes and threads (ulimit -u) "
                    "if there is one, and unset PYTHONWARNINGS=error, which ends Ray's own "
                    f"processes, if it is set; logs are in {logs}"
                ) from error
            ray.shutdown()


def _start(**options: Any) -> None:
    """Start Ray on this machine, with 127.0.0.1 for the node's address.

    Ray listens on all interfaces wherever its node has another address, and takes this one only
    where it knows of no clusters: it would answer a wish for 127.0.0.1 with the machine's own.
    """
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        _init(address="local", **options)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _init(**options: Any) -> None:
    """Call `ray.init`, which would put handlers of its own for SIGTERM in the place of ours.

    What it starts gets process groups of its own: `timeout` and `kill %1` signal whole groups, and
    a cluster that ends at once leaves no step to finish and no checkpoint to write.
    """
    handle, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)  # type: ignore[misc, assignment]
    logs = f"{get_default_ray_temp_dir()}/session_latest/logs"  # type: ignore[no-untyped-call]
    hopeless = (
        f"error: Ray did not take this program in within {JOIN_SECONDS:.0f} s, as where its "
        f"workers die while they start: raylet.err in {logs} of the cluster's node says why; a "
        "PYTHONPATH, a limit of memory or of processes that they inherit can be the cause"
    )
    try:
        with hangups_held(), ended_after(JOIN_SECONDS, hopeless):
            ray.init(**options)
    finally:
        utils.set_sigterm_handler = handle
        services.ConsolePopen = popen  # type: ignore[misc]


def _require_answer(address: str) -> None:
    """Refuse a "host:port" where nobody listens; Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host.strip("[]") or not port.isdecimal():
        raise UserError(
            "resources.address or RAY_ADDRESS must be HOST:PORT, ray://HOST:PORT or auto, "
            f"got {address!r}; unset it to start a cluster here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} (resources.address or RAY_ADDRESS): {error}; "
            "start one with `ray start --head`, or unset it to start one here"
        ) from error


@contextmanager
def cluster(resources: ResourcesConfig) -> Iterator[None]:
    """Be connected to a cluster, and turn what fails on it into a message with the way to its logs.

    Raises:
        RunError: If an actor, an engine or the parity guard failed, or a deadline passed.
        UserError: If the reward only timed out.
        StoppedError: If a signal arrives before there is a cluster.
    """
    try:
        with stopped("while the cluster was starting"):
            connect(resources)
            begin_watch(resources.silence_seconds)
        yield
    except (RayError, EngineError, ParityError, TimeoutError) as error:
        watch = watch_of_cluster()
        if watch is not None and watch.died is not None:
            raise watch.died from error
        cause = getattr(error, "cause", None)
        if isinstance(cause, HopelessRewardError):
            raise UserError(str(cause)) from error
        what = (
            from_ray(str(error))
            or "a deadline passed; see rollout.*_seconds, learner.*_seconds, loop.*_seconds"
        )
        said = "\n".join([what, *getattr(error, "__notes__", ())])
        raise RunError(f"{said}\nlogs of all actors on this node: {ray_logs()}") from error
    finally:
        with handled(ignore, instead=interrupt):
            leave()
