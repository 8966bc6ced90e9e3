"""Send a job to a cluster's job server, stream its output, and learn how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from launch.cli.refusals import RunError, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 5.0
RECONNECTS = 12
"""Tries in a row; a minute without an answer ends the following. It need not end the job."""
NO_AGENT = "No available agent"
"""What the server says that is up before the process of its node that starts jobs."""
AGENT_TRIES = 12
"""The server waits for it by itself, 10 s each time."""
CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that tell of uploads and closed sockets amid the job's output."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


def server_address(address: str | None, environ: Mapping[str, str]) -> str:
    """Return the job server's URL: the given one, the environment's, or this machine's.

    Raises:
        UserError: If it is not http or https, or holds a password.
    """
    ray_address = environ.get("RAY_ADDRESS", "")
    found = (
        address
        or environ.get("RAY_API_SERVER_ADDRESS")
        or (ray_address if ray_address.startswith("http") else DEFAULT_ADDRESS)
    )
    try:
        parts = urlsplit(found)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise UserError(
            f"address must be the job server's, such as http://HEAD:8265, got {found!r}"
        )
    if "@" in parts.netloc:
        raise UserError(
            "address must not hold a user or password, which logs and lists of processes would "
            "show; the cluster's token goes into RAY_AUTH_TOKEN or ~/.ray/auth_token, got those "
            f"for {parts.hostname!r}"
        )
    return found.rstrip("/")


def connect(address: str) -> JobSubmissionClient:
    """Reach the job server with this user's token.

    Raises:
        UserError: If nobody answers, the token is missing or wrong, or it is no job server.
    """
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"no job server answers at {address!r} (address): {error}; start a cluster with "
            "`ray start --head`, or give the address of its dashboard"
        ) from error
    # Ray sends the token only when asked to, and lets the environment's address win over ours.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise _token_refused(address, error) from error
    except (
        RuntimeError,
        ValueError,
        KeyError,
        ConnectionError,
        requests.RequestException,
    ) as error:
        raise UserError(
            f"what answers at {address!r} (address) is no job server of Ray: "
            f"{' '.join(str(error).split())}"
        ) from error


def _token_refused(address: str, error: Exception) -> UserError:
    said = str(error)
    if "RAY_AUTH_TOKEN_PATH is set" in said:
        return UserError(
            "RAY_AUTH_TOKEN_PATH must name a file with the cluster's token, got "
            f"{os.environ.get('RAY_AUTH_TOKEN_PATH')!r}"
        )
    # The first is the server's answer; with the second, Ray finds no token here and asks nobody.
    if "Authentication required" in said or "couldn't find an authentication token" in said:
        return UserError(
            f"the cluster at {address!r} asks for a token and none was sent; put the cluster's "
            "into RAY_AUTH_TOKEN or ~/.ray/auth_token, and leave RAY_AUTH_MODE unset"
        )
    return UserError(
        f"the cluster at {address!r} refused the token of RAY_AUTH_TOKEN or ~/.ray/auth_token; "
        "take the one the cluster was started with"
    )


def send(
    client: JobSubmissionClient,
    name: str,
    command: str,
    folder: Path,
    variables: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Upload the packed folder and start the job, which is a shell line, with what it is kept by.

    Raises:
        UserError: If the name is taken; the job that has it is left alone.
        RunError: If the server refuses the job.
    """
    # The folder holds what is to be sent, whatever its own .gitignore says.
    os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
    for tries_left in reversed(range(AGENT_TRIES)):
        try:
            client.submit_job(
                entrypoint=command,
                submission_id=name,
                runtime_env={"working_dir": str(folder), "env_vars": dict(variables)},
                metadata=dict(metadata),
            )
            return
        except RuntimeError as error:
            if "already exists" in str(error):
                raise UserError(
                    f"name must be new on the cluster, where a job {name!r} already exists; choose "
                    "another"
                ) from error
            if NO_AGENT not in str(error):
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                said = f"the job server refused the job: {' '.join(dict.fromkeys(lines))}"
                raise RunError(said) from error
            if not tries_left:
                raise RunError(
                    "the head has no process that starts jobs, as dashboard_agent.log in its "
                    "folder of logs says; where another Ray on that machine holds the agent's "
                    "port, start the head with another `ray start --dashboard-agent-listen-port`"
                ) from error
            if tries_left == AGENT_TRIES - 1:
                print("waiting, at most two minutes, for the head's process that starts jobs")


def follow(
    client: JobSubmissionClient, name: str, write: Callable[[str], object], later: str
) -> JobDetails:
    """Write the job's output as it comes, until the job has ended.

    A lost connection is taken up again where it broke.

    Args:
        client: From `connect`.
        name: The job's.
        write: Takes new output.
        later: The command that follows the job again.

    Returns:
        How the job ended.

    Raises:
        RunError: If the server has not answered for a minute; the job goes on if the head does.
    """
    import aiohttp
    import requests

    written, failures = 0, 0

    async def stream() -> None:
        nonlocal written, failures
        seen = 0
        async for text in client.tail_job_logs(name):
            # The server begins with the first line each time.
            new = text[max(0, written - seen) :]
            seen += len(text)
            written = max(written, seen)
            failures = 0
            if new:
                write(new)

    while True:
        try:
            asyncio.run(stream())
            details = client.get_job_info(name)
            failures = 0
        except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
            failures += 1
            if failures > RECONNECTS:
                raise RunError(
                    f"the job server no longer answers ({' '.join(str(error).split())}); if the "
                    f"cluster's head lives, the job goes on: {later}; if it does not, neither does "
                    "the job: submit it again with the same run_dir"
                ) from error
            time.sleep(RECONNECT_SECONDS)
            continue
        if details.status.is_terminal():
            return details
        time.sleep(0.5)
