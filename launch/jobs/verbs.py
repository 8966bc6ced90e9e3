"""What can be done with jobs that were sent: list them, stop one in order, submit one again.

What a job runs, and where it writes, is kept with it as its metadata: nothing is kept here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from conf.submit import SubmitConfig
from launch.cli.refusals import RunError, UserError
from launch.jobs.forms import SAVE_SECONDS, STOP_WAIT

POLL_SECONDS = 1.0
UNKNOWN = "-"
_HEADINGS = ("job", "status", "started", "run folder")


def metadata_of(program: str, overrides: Sequence[str], run_dir: str) -> dict[str, str]:
    """Return what is kept with a job, for `read_metadata`.

    Args:
        program: What it runs.
        overrides: Of the program, with its run folder.
        run_dir: The folder that they compose to.
    """
    return {"program": program, "overrides": json.dumps(list(overrides)), "run_dir": run_dir}


def read_metadata(metadata: Mapping[str, str] | None) -> tuple[str, list[str]] | None:
    """Return a job's program and overrides; None for a job that somebody else sent."""
    try:
        found = metadata or {}
        return found["program"], [str(each) for each in json.loads(found["overrides"])]
    except (KeyError, ValueError):
        return None


def table_of(jobs: Sequence[Any]) -> str:
    """Return a line for each job, the newest last; times are this machine's.

    Args:
        jobs: Ray's details, of which those without a name of their own are left out.
    """
    rows = [
        (
            str(job.submission_id),
            str(job.status.value),
            _time(job.start_time),
            (job.metadata or {}).get("run_dir", UNKNOWN),
        )
        for job in sorted(jobs, key=lambda job: job.start_time or 0)
        if job.submission_id
    ]
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (_HEADINGS, *rows)
    )


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return UNKNOWN
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Tell in one sentence what the server says where it refuses, or no longer answers."""
    try:
        yield
    # Of a connection that fails it is an OSError.
    except (RuntimeError, OSError) as error:
        raise RunError(f"the job server says of {what}: {_line(error)}") from error


def found(client: Any, name: str) -> Any:
    """Return what the server knows of a job.

    Raises:
        UserError: If there is none of that name.
        RunError: If the server does not answer.
    """
    try:
        with answering(repr(name)):
            return client.get_job_info(name)
    except RunError as error:
        if "does not exist" not in str(error):
            raise
        raise UserError(
            f"the job must be one of the cluster's, which `python -m launch.submit list` shows, "
            f"got {name!r}"
        ) from error


def patience_of(job: Any) -> float:
    """Return how long a job may take to end in order, in seconds: what its own variables say."""
    variables = (job.runtime_env or {}).get("env_vars", {})
    try:
        return float(variables[STOP_WAIT]) + SAVE_SECONDS / 2
    except (KeyError, ValueError):
        return float(SAVE_SECONDS)


def stop(
    client: Any,
    name: str,
    say: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Have a job end in order, with a checkpoint and the policy, and wait until it has.

    Args:
        client: From `launch.jobs.server.connect`.
        name: The job's.
        say: Told what happens.
        sleep: Lets time pass.

    Raises:
        UserError: If there is no such job.
        RunError: If it has not ended in its time.
    """
    job = found(client, name)
    if job.status.is_terminal():
        say(f"job {name} has ended as {job.status.value}")
        return
    patience = patience_of(job)
    with answering(repr(name)):
        client.stop_job(name)
    say(f"job {name} is asked to end in order, for which it has {patience:g} s")
    waited = 0.0
    while True:
        # A server that does not answer once is asked again.
        with suppress(RunError):
            if (job := found(client, name)).status.is_terminal():
                break
        if waited >= patience:
            raise RunError(f"job {name} has not ended within {patience:g} s; it is {job.status}")
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    say(f"job {name} ended as {job.status.value}")


def again(
    client: Any, name: str, config: SubmitConfig, changed: Sequence[str]
) -> tuple[SubmitConfig, list[str]]:
    """Return the settings and overrides with which a job goes on from its run folder.

    Args:
        client: From `launch.jobs.server.connect`.
        name: The job's.
        config: Of the job that goes on, with a name of its own.
        changed: Overrides of the program that take the place of the job's.

    Raises:
        UserError: If there is no such job, it has not ended, or somebody else sent it.
    """
    job = found(client, name)
    if not job.status.is_terminal():
        where = f" address={config.address}" if config.address else ""
        raise UserError(
            f"the job to go on with must have ended, and {name!r} is {job.status.value}; stop it "
            f"with `python -m launch.submit stop {name}{where}`"
        )
    sent = read_metadata(job.metadata)
    if sent is None:
        raise UserError(
            f"the job to go on with must be one that launch.submit sent, and {name!r} says nothing "
            "of what it ran; submit its program with the same run_dir"
        )
    program, overrides = sent
    keys = {each.partition("=")[0] for each in changed}
    kept = [each for each in overrides if each.partition("=")[0] not in keys]
    return replace(config, action=[], program=program), [*kept, *changed]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
