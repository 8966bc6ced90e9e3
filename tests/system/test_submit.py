"""A job on a cluster with token authentication: sent, followed, resumed, refused."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from launch.record.restarts import read_restarts
from tests.places import PROJECT
from tests.system.program import PATIENCE_SECONDS, SMALL, lines_of
from tests.system.ray_node import RAY, RayNode, environment, free_ports

pytestmark = pytest.mark.system

TOKEN = "0123456789abcdef0123456789abcdef"
NUM_STEPS = 6


@pytest.fixture(scope="module")
def job_server():
    """A cluster on ports and in a folder of its own; ended by its process group only."""
    # Ray's sockets lie below this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        head = RayNode(
            Path(folder) / "head.log",
            [
                *("--head", f"--port={free_ports(1)[0]}", f"--temp-dir={folder}"),
                *("--num-cpus=4", "--object-store-memory=200000000"),
            ],
            # Jobs take `python` from here, as in an activated environment.
            environment(RAY_AUTH_TOKEN=TOKEN, PATH=f"{RAY.parent}:{os.environ['PATH']}"),
        )
        try:
            head.await_start()
            yield f"http://127.0.0.1:{head.dashboard_port}"
        finally:
            head.terminate()


def submit(*arguments, token=TOKEN, **changes):
    done = subprocess.run(
        [sys.executable, "-m", "launch.submit", *arguments],
        cwd=PROJECT,
        env=environment(RAY_AUTH_TOKEN=token, **changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_of(folder, *overrides):
    return ["--", *SMALL, f'run_dir="{folder}"', "loop.max_staleness=0", *overrides]


def test_a_job_trains_and_one_that_resumes_it_ends_the_same_to_the_bit(job_server, tmp_path):
    # Survives two shells and hydra, or the run has another folder.
    folder, whole = tmp_path / "it's $HOME (a)", tmp_path / "whole"
    job = (f"address={job_server}", "name=first", "env=[HF_HOME]")
    overrides = (f"loop.num_steps={NUM_STEPS}", "checkpoint.keep_last=9")
    keys = {"HF_HOME": str(tmp_path), "WANDB_API_KEY": "very-secret"}
    done = submit(*job, *run_of(folder, *overrides), **keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended as SUCCEEDED" in done.stdout
    assert "placement" in done.stdout
    unfolded = re.sub(r"[\s│]", "", done.stdout)
    assert str(folder).replace(" ", "") in unfolded
    assert "very-secret" not in done.stdout
    assert (folder / "summary.json").is_file()

    shutil.copytree(folder, whole)
    step = leave_as_a_kill_would(folder, before_step=4)
    resumed = submit("resume", "first", f"address={job_server}", "name=first-again")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert without_seconds(lines_of(folder)) == without_seconds(lines_of(whole))
    weights = [(path / "policy" / "model.safetensors").read_bytes() for path in (whole, folder)]
    assert weights[0] == weights[1]
    assert (whole / "samples.jsonl").read_text() == (folder / "samples.jsonl").read_text()
    (restart,) = read_restarts(folder)
    assert (restart.step, restart.lost_steps) == (step, NUM_STEPS - step)

    again = submit(*job, *run_of(tmp_path / "other"))
    assert again.returncode == 2
    assert "name must be new on the cluster" in again.stderr


def leave_as_a_kill_would(run_dir, before_step):
    """Take away what came after a kill; returns the step of the newest checkpoint left."""
    shutil.rmtree(run_dir / "policy")
    # While one is being written none is taken: there may not be one of every step.
    steps = {int(path.name[5:]): path for path in (run_dir / "checkpoints").iterdir()}
    for step in [step for step in steps if step >= before_step]:
        shutil.rmtree(steps.pop(step))
    return max(steps)


def without_seconds(lines):
    return [
        {
            key: value
            for key, value in line.items()
            if "second" not in key and key != "time" and not key.startswith("checkpoint/")
        }
        for line in lines
    ]


def test_a_wrong_token_is_one_sentence(job_server, tmp_path):
    done = submit(f"address={job_server}", *run_of(tmp_path / "run"), token="f" * 32)
    assert done.returncode == 2
    assert "refused the token" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "f" * 32 not in done.stderr


def test_a_job_that_is_not_followed_is_listed_and_stopped_in_order(job_server, tmp_path):
    name, at, folder = "not-followed", f"address={job_server}", tmp_path / "run"
    started = submit(at, f"name={name}", "follow=false", *run_of(folder))
    assert started.returncode == 0
    assert f"--follow {name}" in started.stdout
    listed = submit("list", at)
    (line,) = [each for each in listed.stdout.splitlines() if each.startswith(name)]
    assert line.endswith(str(folder)) and line.split()[1] in ("PENDING", "RUNNING")
    stopped = submit("stop", name, at)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.splitlines()[-1] == f"job {name} ended as STOPPED"
    assert submit("stop", "nobody", at).returncode == 2
