"""The job as other programs take it, and the image that it names."""

import shlex
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ray.util import get_node_ip_address

from conf.checkpoint import CheckpointConfig
from conf.submit import KubeRayConfig, SlurmConfig, SubmitConfig
from launch.jobs.forms import (
    RAY_USER,
    SAVE_SECONDS,
    kuberay_manifest,
    leaving_seconds,
    ray_line,
    slurm_script,
)
from launch.jobs.nodes import Nodes
from tests.places import PROJECT

AWKWARD = ["experiment=quickstart", 'name="it\'s $HOME (a)"', "run_dir=/shared/a b", "x=${y}"]
COMMAND = ["python", "-m", "launch.train", *AWKWARD]
GPU_NODES = Nodes(count=2, most=2, cpus=32, gpus=8, memory_gib=256)
LEAVING = 120


def job(**settings):
    settings.setdefault("kuberay", KubeRayConfig(claim="shared"))
    return SubmitConfig(name="first", **settings)


def test_a_run_gets_the_time_of_a_step_and_a_checkpoint_to_leave():
    assert leaving_seconds(CheckpointConfig(grace_seconds=90.2)) == 181 + SAVE_SECONDS


def test_the_ray_line_is_one_shell_command_with_the_same_job():
    line = ray_line(job(), AWKWARD, "http://h:8265", {"HF_HOME": "/a b"})
    words = shlex.split(line)
    assert words[:4] == ["RAY_AUTH_MODE=token", "ray", "job", "submit"]
    assert words[words.index("--") + 1 :] == COMMAND
    compared = ray_line(job(program="compare"), AWKWARD, "http://h:8265", {})
    assert "python -m launch.compare experiment=quickstart" in compared
    assert words[words.index("--submission-id") + 1] == "first"
    environment = yaml.safe_load(words[words.index("--runtime-env-json") + 1])
    assert environment == {"env_vars": {"HF_HOME": "/a b"}}
    assert "--no-wait" in ray_line(job(follow=False), AWKWARD, "http://h:8265", {})


def test_the_rayjob_has_one_head_and_the_workers_that_the_run_needs():
    manifest = yaml.safe_load(
        kuberay_manifest(job(), AWKWARD, GPU_NODES, {"HF_HOME": "/hf"}, LEAVING)
    )
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert manifest["metadata"]["name"] == "first"
    spec = manifest["spec"]
    assert shlex.split(spec["entrypoint"]) == COMMAND
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 3
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"HF_HOME": "/hf"}}
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 2
    assert "enableInTreeAutoscaling" not in cluster
    head = cluster["headGroupSpec"]
    # Nothing is placed on the head, which has no GPU.
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group, gpus in ((head, None), (workers, 8)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "cost-aware-rl"
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert pod["securityContext"]["runAsNonRoot"] is True
        # Engines and learners stay until the run has written its checkpoint.
        assert pod["terminationGracePeriodSeconds"] == LEAVING
        # Ray's object store, three tenths of the memory, goes to the disk where it does not fit.
        memory, shm = (int(size.removesuffix("Gi")) for size in (
            container["resources"]["limits"]["memory"],
            pod["volumes"][0]["emptyDir"]["sizeLimit"],
        ))  # fmt: skip
        assert 0.3 * memory < shm < 0.5 * memory
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_where_engines_may_join_machines_may_come():
    nodes = replace(GPU_NODES, most=5)
    manifest = yaml.safe_load(kuberay_manifest(job(), AWKWARD, nodes, {}, LEAVING))
    cluster = manifest["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 2, 5)
    script = slurm_script(job(), AWKWARD, nodes, LEAVING)
    assert "#SBATCH --nodes=2-5\n" in script


def test_the_rayjob_refers_to_secrets_and_holds_none(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret-token")
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-key")
    text = kuberay_manifest(job(secrets=["WANDB_API_KEY"]), AWKWARD, GPU_NODES, {}, LEAVING)
    assert "very-secret" not in text
    cluster = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cost-aware-rl-token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (variable,) = group["template"]["spec"]["containers"][0]["env"]
        assert variable["name"] == "WANDB_API_KEY"
        assert variable["valueFrom"]["secretKeyRef"]["key"] == "WANDB_API_KEY"


def test_a_rayjob_on_cpus_asks_for_no_gpu():
    nodes = Nodes(count=1, most=1, cpus=4, gpus=0, memory_gib=8)
    assert "nvidia" not in kuberay_manifest(job(), AWKWARD, nodes, {}, LEAVING)


# Runs what stands behind `--`, with run.sh in the place of the run.
ON_THE_HEAD = """while [ "$1" != env ]; do words+=("$1"); shift; done
while [ "${words[0]}" != -- ]; do words=("${words[@]:1}"); done
exec "${words[@]:1}" bash run.sh"""
RECORD = f"""printf "%s\\n" "$@" > srun.txt; printf "%s" "$RAY_AUTH_TOKEN" > token.txt
printf "%s" "$RAY_py_gcs_connect_timeout_s" > patience.txt
{ON_THE_HEAD}"""


def prepare_slurm(script, tmp_path, srun, run="exit 0"):
    """Make a folder in which a batch script finds programs in the place of Slurm's and the run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "scontrol": "[ $1 = requeue ] && echo $2 > requeued.txt",
        "srun": srun,
    }
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "activate").write_text("")
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "run.sh").write_text(run)
    return {
        "PATH": f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NUM_NODES": "3",
        "HOME": "/home/me",
        "TMPDIR": str(tmp_path),
    }


def make_slurm_script():
    return slurm_script(job(slurm=SlurmConfig(activate="./activate")), AWKWARD, GPU_NODES, LEAVING)


def test_the_slurm_script_runs_the_same_command_with_a_token_of_its_own(tmp_path):
    script = make_slurm_script()
    environ = prepare_slurm(script, tmp_path, RECORD)
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environ, check=True)
    words = (tmp_path / "srun.txt").read_text().splitlines()
    token = (tmp_path / "token.txt").read_text()
    address = words[words.index("--address") + 1]
    at = words.index("env")
    assert words[at + 1] == f"RAY_ADDRESS={address}"
    assert words[at + 2 :] == COMMAND
    # An address that this machine has, whatever its name means here.
    host, port = address.rsplit(":", 1)
    assert (host, port) == (get_node_ip_address(), "22345")
    # As many as Slurm gave, of two or more.
    assert words[words.index("--min-nodes") + 1] == "3"
    assert words[words.index("--num-gpus") + 1] == "8"
    assert words.index("--cpus-per-task=32") < words.index("ray")
    assert (tmp_path / "patience.txt").read_text() == "600"
    assert len(token) == 64
    assert token not in script
    assert not (tmp_path / "requeued.txt").exists()


RUN = """trap 'touch checkpoint.txt; exit 143' TERM
touch up.txt
for _ in $(seq 600); do sleep 0.1; done
"""


def test_before_its_time_is_over_the_slurm_job_stops_the_run_and_queues_up_again(tmp_path):
    environ = prepare_slurm(make_slurm_script(), tmp_path, ON_THE_HEAD, RUN)
    with subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environ) as batch:
        try:
            end = time.monotonic() + 60
            while not (tmp_path / "up.txt").exists():
                assert batch.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            batch.send_signal(signal.SIGUSR1)
            assert batch.wait(60) == 143
        finally:
            batch.kill()
    assert (tmp_path / "checkpoint.txt").exists()
    assert (tmp_path / "requeued.txt").read_text() == "12345\n"


@pytest.mark.parametrize(("ending", "status"), [("exit 0", 0), ("exit 2", 2)])
def test_a_slurm_job_whose_run_ends_by_itself_ends_likewise(tmp_path, ending, status):
    environ = prepare_slurm(make_slurm_script(), tmp_path, ON_THE_HEAD, ending)
    assert subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environ).returncode == status
    assert not (tmp_path / "requeued.txt").exists()


def test_a_slurm_job_whose_ray_does_not_start_fails(tmp_path):
    # Then symmetric-run ends with 0, and the run was not begun.
    environ = prepare_slurm(make_slurm_script(), tmp_path, "exit 0")
    ended = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Ray did not start")
    assert not (tmp_path / "requeued.txt").exists()


def test_the_slurm_script_exports_the_allowed_names_only():
    config = job(env=["HF_HOME"], secrets=["WANDB_API_KEY"], slurm=SlurmConfig(partition="gpu"))
    script = slurm_script(config, AWKWARD, GPU_NODES, LEAVING)
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert options["export"] == "HOME,USER,HF_HOME,WANDB_API_KEY"
    assert (options["nodes"], options["gpus-per-node"], options["partition"]) == ("2", "8", "gpu")
    assert "account" not in options
    assert options["signal"] == f"B:USR1@{LEAVING}"
    assert options["open-mode"] == "append" and "#SBATCH --requeue\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_image_runs_as_a_user_without_rights_and_holds_no_secret():
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == [str(RAY_USER)]
    assert not any(line.startswith(("ARG", "ENV")) and "TOKEN" in line for line in lines)
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", ".env*", "runs"} <= set(ignored)
