"""One job in three forms for other programs: a `ray job submit` line, a RayJob, a Slurm script.

Pure functions from the configuration to text. No form holds a token or another secret: KubeRay
takes them from Secrets, Slurm from the shell that calls sbatch, and a Slurm job makes itself a
token.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import yaml

from conf.checkpoint import CheckpointConfig
from conf.submit import SubmitConfig
from launch.jobs.nodes import Nodes

SHM_SHARE = Fraction(2, 5)
"""Of a pod's memory, for /dev/shm: NCCL lives there, and Ray's object store, which takes three
tenths of the memory and goes to the disk where they do not fit."""
RAY_USER = 1000
"""The user as whom the image of the Dockerfile runs."""
SAVE_SECONDS = 60
"""For the policy and the ends of all parts, after the last checkpoint."""
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""What Ray's supervisor of a job waits between SIGTERM and SIGKILL, by itself 3 s; it reads this
from the job's own variables."""


def leaving_seconds(checkpoint: CheckpointConfig) -> int:
    """Return how long a run needs from SIGTERM to its end: a step, a checkpoint, the policy."""
    return math.ceil(2 * checkpoint.grace_seconds) + SAVE_SECONDS


def run_command(program: str, overrides: Sequence[str]) -> list[str]:
    """Return the words of the command that the job runs."""
    return ["python", "-m", f"launch.{program}", *overrides]


def checked_command(program: str, overrides: Sequence[str]) -> str:
    """Return the shell line that runs the command once every node has the project installed."""
    return f"python -m launch.jobs.check && exec {shlex.join(run_command(program, overrides))}"


def ray_line(
    config: SubmitConfig, overrides: Sequence[str], address: str, variables: dict[str, str]
) -> str:
    """Return the line that Ray's own program takes.

    It packs the folder where it is called, so that the nodes must have the project installed.

    Args:
        config: The job's settings.
        overrides: What stands after `--`: the overrides of the program.
        address: The URL of the job server.
        variables: Allowed environment variables with their values.
    """
    words = ["ray", "job", "submit", "--address", address, "--submission-id", config.name]
    words += ["--working-dir", "."]
    if variables:
        words += ["--runtime-env-json", json.dumps({"env_vars": variables})]
    if not config.follow:
        words += ["--no-wait"]
    return (
        "RAY_AUTH_MODE=token "
        + shlex.join([*words, "--", *run_command(config.program, overrides)])
        + "\n"
    )


def kuberay_manifest(
    config: SubmitConfig,
    overrides: Sequence[str],
    nodes: Nodes,
    variables: dict[str, str],
    leaving: int,
) -> str:
    """Return a RayJob (ray.io/v1) with a cluster of its own, as YAML.

    The operator asks for a token through `authOptions`: KubeRay 1.5.1 or newer; from 1.6 on the
    token is that of `kuberay.token_secret`, before it the operator makes one.

    Args:
        config: The job's settings; `kuberay.claim` is set.
        overrides: What stands after `--`: the overrides of the program.
        nodes: The worker pods; the head is one pod more, which holds no engine and no learner.
            Ray's autoscaler runs beside it where engines may join.
        variables: Allowed environment variables with their values.
        leaving: From `leaving_seconds`. The operator stops the job before it deletes the pods, all
            of which must stay until the run has left.
    """
    kuberay = config.kuberay
    head: dict[str, int] = {"cpu": kuberay.head_cpus, "gpu": 0, "gib": kuberay.head_memory_gib}
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(run_command(config.program, overrides)),
        # The operator sends the entrypoint as it is; a submitter's pod would quote it again.
        "submissionMode": "HTTPMode",
        # Each retry gets a new cluster, on which the run goes on from its newest checkpoint.
        "backoffLimit": kuberay.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            # Pods come as engines that may join ask for them, and go when nothing is on them.
            **({"enableInTreeAutoscaling": True} if nodes.most > nodes.count else {}),
            "authOptions": {"mode": "token", "secretName": kuberay.token_secret},
            "headGroupSpec": {
                "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
                "template": _pod(config, "ray-head", head, leaving),
            },
            "workerGroupSpecs": [_workers(config, nodes, leaving)],
        },
    }
    if variables:
        spec["runtimeEnvYAML"] = yaml.safe_dump({"env_vars": variables})
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": config.name},
        "spec": spec,
    }
    text: str = yaml.safe_dump(manifest, sort_keys=False, width=10_000)
    return text


def _workers(config: SubmitConfig, nodes: Nodes, leaving: int) -> dict[str, Any]:
    size = {"cpu": nodes.cpus, "gpu": nodes.gpus, "gib": nodes.memory_gib}
    return {
        "groupName": "workers",
        "replicas": nodes.count,
        "minReplicas": nodes.count,
        "maxReplicas": nodes.most,
        "rayStartParams": {},
        "template": _pod(config, "ray-worker", size, leaving),
    }


def _pod(config: SubmitConfig, name: str, size: dict[str, int], leaving: int) -> dict[str, Any]:
    kuberay = config.kuberay
    resources: dict[str, Any] = {"cpu": size["cpu"], "memory": f"{size['gib']}Gi"}
    if size["gpu"]:
        resources["nvidia.com/gpu"] = size["gpu"]
    container: dict[str, Any] = {
        "name": name,
        "image": kuberay.image,
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "shared", "mountPath": kuberay.mount_path},
        ],
    }
    if config.secrets:
        container["env"] = [
            {
                "name": variable,
                "valueFrom": {
                    "secretKeyRef": {"name": kuberay.secret, "key": variable, "optional": True}
                },
            }
            for variable in config.secrets
        ]
    shm = math.ceil(size["gib"] * SHM_SHARE)
    return {
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": RAY_USER,
                "fsGroup": RAY_USER,
            },
            "terminationGracePeriodSeconds": leaving,
            "containers": [container],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
                {"name": "shared", "persistentVolumeClaim": {"claimName": kuberay.claim}},
            ],
        }
    }


def slurm_script(config: SubmitConfig, overrides: Sequence[str], nodes: Nodes, leaving: int) -> str:
    """Return a batch script that starts a Ray cluster of its own for the run, and ends it.

    Before the time limit the run is stopped and the job queued again; so it is by Slurm itself when
    a node fails or another job takes its place. `scancel` ends it for good.

    Call sbatch in the project's folder, on a file system that all nodes share. Variables come from
    the shell that calls sbatch, by name; the token is made when the job starts.

    Args:
        config: The job's settings.
        overrides: What stands after `--`: the overrides of the program.
        nodes: The machines; the first is also the head. Slurm gives as many as it has between
            the fewest and the most.
        leaving: From `leaving_seconds`.
    """
    slurm = config.slurm
    names = ",".join(["HOME", "USER", *config.env, *config.secrets])
    options = {
        "job-name": config.name,
        "output": "%x-%j.log",
        "time": slurm.time,
        "partition": slurm.partition,
        "account": slurm.account,
        "nodes": nodes.count if nodes.most == nodes.count else f"{nodes.count}-{nodes.most}",
        "ntasks-per-node": 1,
        "cpus-per-task": nodes.cpus,
        "gpus-per-node": nodes.gpus or None,
        "mem": f"{nodes.memory_gib}G",
        "export": names,
        "open-mode": "append",
        # To the script alone: Ray's processes would take a signal for their own end.
        "signal": f"B:USR1@{leaving}",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    return _SLURM.format(
        options="\n".join(lines),
        activate=shlex.quote(slurm.activate),
        cpus=nodes.cpus,
        gpus=nodes.gpus,
        command=shlex.join(run_command(config.program, overrides)),
    )


_SLURM = """\
#!/bin/bash
{options}
#SBATCH --requeue
# When the run ends, Ray stops every Ray process of yours on the nodes: take them whole.
#SBATCH --exclusive
set -eo pipefail
source {activate}

# The token is of this job only, and in no file.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
# Nodes start at different times; Ray's own patience is 30 s, and so is that of a node's first call.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export RAY_py_gcs_connect_timeout_s=600

# This node is the head. Not by its name, which many machines give to 127.0.1.1 in /etc/hosts: no
# node would know itself by that.
head=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
address="$head:$((20000 + SLURM_JOB_ID % 10000))"

# The run is on this node, and says here who it is.
driver=$(mktemp)
stopped=
trap 'stopped=1; kill -TERM "$(cat "$driver")" || kill -TERM "$job" || true' USR1
# Ray waits until there are as many nodes as it is told, and goes by no other number: that which
# Slurm gave. A step does not take over the cores that the job has for a task.
srun --export=ALL --kill-on-bad-exit=1 --cpus-per-task={cpus} \\
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \\
    --num-cpus {cpus} --num-gpus {gpus} -- \\
    bash -c 'echo $$ > "$1"; shift; exec "$@"' run "$driver" \\
    env RAY_ADDRESS="$address" {command} &
job=$!
status=0
wait "$job" || status=$?
if [ "$status" = 138 ]; then
    # The signal ended the wait, not the run.
    status=0
    wait "$job" || status=$?
fi
# Where Ray does not start, its program ends as if all were well.
if [ "$status" = 0 ] && [ ! -s "$driver" ]; then
    echo "error: Ray did not start, so that the run was not begun; the reason is above" >&2
    status=1
fi
if [ -n "$stopped" ] && [ "$status" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
rm -f "$driver"
exit "$status"
"""
