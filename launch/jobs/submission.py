"""A program as a job: checked here, then sent and followed, or printed for another program.

SubmitConfig + the program's overrides -> checked_run -> pack -> send -> follow
`---> a form for ray, KubeRay or Slurm
"""

from __future__ import annotations

import os
import posixpath
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from conf.schema import RunConfig
from conf.secrets import SECRET_TEXT
from conf.submit import SubmitConfig
from launch.cli.command_line import quoted
from launch.cli.refusals import RunError, UserError
from launch.jobs.forms import (
    STOP_WAIT,
    checked_command,
    kuberay_manifest,
    leaving_seconds,
    ray_line,
    slurm_script,
)
from launch.jobs.nodes import nodes_for
from launch.jobs.package import pack
from launch.jobs.server import connect, follow, send, server_address
from launch.jobs.verbs import again, answering, metadata_of, stop, table_of
from launch.program import build, compose_run
from rollout.own_code import PROJECT

Reader = Callable[[Sequence[str]], RunConfig]
"""Composes and checks a program's overrides, and returns what the cluster must have room for, with
the folder of all that the program writes as its `run_dir`."""


def training(overrides: Sequence[str]) -> RunConfig:
    """Compose and check the overrides of a training run.

    Raises:
        UserError: If they do not compose, or name a run to go on from.
    """
    run: RunConfig = build(compose_run(overrides))
    if run.resume not in (None, "auto"):
        raise UserError(
            f"resume must be auto, which jobs have by themselves, got {run.resume!r}; give the run "
            "folder to go on from as run_dir, with the overrides of its run"
        )
    return run


def checked_run(
    config: SubmitConfig, overrides: Sequence[str], read: Reader = training
) -> RunConfig:
    """Compose and check what is to run here, where an error costs nothing.

    Raises:
        UserError: If it does not compose, or its folder would be lost with the job.
    """
    if not overrides:
        named = {"train": "experiment=quickstart", "compare": "comparison=baselines"}
        raise UserError(
            f"name what to run after `--`, such as -- {named[config.program]} run_dir=/shared/first"
        )
    run = read(overrides)
    folder = PurePosixPath(posixpath.normpath(run.run_dir))
    if config.form == "kuberay":
        if config.kuberay.claim is None:
            raise UserError(
                "kuberay.claim must name the PersistentVolumeClaim that keeps run_dir, got null: "
                "the pods are deleted after the run"
            )
        if not folder.is_relative_to(config.kuberay.mount_path):
            raise UserError(
                f"run_dir must lie under kuberay.mount_path = {config.kuberay.mount_path!r}, got "
                f"{run.run_dir!r}: the pods are deleted after the run"
            )
    elif config.form != "slurm" and not folder.is_absolute():
        raise UserError(
            "run_dir must be an absolute folder that the head keeps, such as /shared/runs/first, "
            f"got {run.run_dir!r}: the job's own folder is deleted after it"
        )
    return run


def resuming(program: str, overrides: Sequence[str], run: RunConfig) -> list[str]:
    """Return the overrides with which the job goes on from what an earlier try of it left.

    Args:
        program: What the job runs; a comparison goes on by itself.
        overrides: What stands after `--`.
        run: What they compose to; its folder counts, in the place of what makes a new name a try.
    """
    others = [each for each in overrides if not each.startswith("run_dir=")]
    chosen = program == "compare" or any(each.startswith("resume=") for each in others)
    return [*others, f"run_dir={quoted(run.run_dir)}", *([] if chosen else ["resume=auto"])]


def allowed_variables(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with these names that are set, with their values.

    Raises:
        UserError: If one holds a password or a key, whatever its name.
    """
    for name in names:
        if SECRET_TEXT.search(environ.get(name, "")):
            raise UserError(
                "env must not hold variables with a password or key in them, which Ray would keep "
                f"in its records and logs; put the name into secrets, got {name}"
            )
    return {name: environ[name] for name in names if name in environ}


def submit(config: SubmitConfig, overrides: Sequence[str], readers: Mapping[str, Reader]) -> None:
    """Print the job in the form asked for, or send and follow it; or do what `action` says.

    Args:
        config: The job's settings.
        overrides: What stands after `--`.
        readers: By program what reads its overrides.

    Raises:
        UserError: With one sentence on what to change; nothing was started.
        RunError: If the job did not succeed.
    """
    if config.action:
        resumed = _act(config, overrides)
        if resumed is None:
            return
        config, overrides = resumed
    run = checked_run(config, overrides, readers[config.program])
    overrides = resuming(config.program, overrides, run)
    leaving = leaving_seconds(run.checkpoint)
    variables = allowed_variables(config.env, os.environ)
    if config.form != "slurm":
        variables[STOP_WAIT] = str(leaving)
    if config.form == "submit":
        _send_and_follow(config, overrides, variables, run.run_dir)
    elif config.form == "ray":
        address = server_address(config.address, os.environ)
        print(ray_line(config, overrides, address, variables), end="")
    elif config.form == "kuberay":
        nodes = nodes_for(run.resources, config.node)
        print(kuberay_manifest(config, overrides, nodes, variables, leaving), end="")
    else:
        nodes = nodes_for(run.resources, config.node)
        print(slurm_script(config, overrides, nodes, leaving), end="")


def _act(config: SubmitConfig, overrides: Sequence[str]) -> tuple[SubmitConfig, list[str]] | None:
    """List or stop jobs, or return what is to be submitted for one to go on."""
    verb, *names = config.action
    if overrides and verb != "resume":
        raise UserError(
            f"nothing can stand behind `--` with {verb}, which runs nothing, got {overrides[0]!r}"
        )
    address = server_address(config.address, os.environ)
    client = connect(address)
    if verb == "list":
        with answering("its jobs"):
            jobs = client.list_jobs()
        print(table_of(jobs) or f"there are no jobs at {address}")
    elif verb == "stop":
        stop(client, names[0], print)
    else:
        return again(client, names[0], config, overrides)
    return None


def _send_and_follow(
    config: SubmitConfig, overrides: Sequence[str], variables: dict[str, str], run_dir: str
) -> None:
    address = server_address(config.address, os.environ)
    client = connect(address)
    with tempfile.TemporaryDirectory() as folder:
        number, size = pack(PROJECT, Path(folder), Path.cwd())
        command = checked_command(config.program, overrides)
        kept = metadata_of(config.program, overrides, run_dir)
        send(client, config.name, command, Path(folder), variables, kept)
    along = f", with {', '.join(variables)}" if variables else ""
    print(
        f"job {config.name} at {address}: {size / 2**20:.1f} MiB of {number} files packed, without "
        f"run folders, models of yours and caches{along}"
    )
    # Ray's own programs send the token only when asked to.
    later = f"RAY_AUTH_MODE=token ray job logs --address {address} --follow {config.name}"
    print(f"dashboard: {address}, which asks for the token: `ray get-auth-token` prints it")
    if not config.follow:
        print(f"follow it with: {later}")
        return

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        details = follow(client, config.name, write, later)
    except KeyboardInterrupt:
        raise RunError(
            f"no longer following; the job goes on: {later}; end it with: python -m launch.submit "
            f"stop {config.name} address={address}"
        ) from None
    if details.status.value != "SUCCEEDED":
        # Ray repeats the output, which was just streamed, after these words.
        reason = " ".join((details.message or "").split(", last available logs")[0].split())
        raise RunError(f"job {config.name} ended as {details.status.value}: {reason}")
    print(f"job {config.name} ended as SUCCEEDED")
