"""A job on a cluster with token authentication: sent, followed, refused."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.places import PROJECT

pytestmark = pytest.mark.system

TOKEN = "0123456789abcdef0123456789abcdef"
RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 120


def environment(**changes):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"} | changes


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def job_server():
    """A cluster on ports and in a folder of its own; ended by its process group only."""
    port, dashboard, client, agent = free_ports(4)
    # Ray's sockets lie below this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--disable-usage-stats"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"),
                *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
                *(f"--dashboard-agent-listen-port={agent}", "--num-cpus=4"),
                "--object-store-memory=200000000",
            ],
            # Jobs take `python` from here, as in an activated environment.
            env=environment(RAY_AUTH_TOKEN=TOKEN, PATH=f"{RAY.parent}:{os.environ['PATH']}"),
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                        break
                time.sleep(0.5)
            else:
                pytest.fail("the cluster did not start")
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def submit(*arguments, token=TOKEN, **changes):
    done = subprocess.run(
        [sys.executable, "-m", "launch.submit", *arguments],
        cwd=PROJECT,
        env=environment(RAY_AUTH_TOKEN=token, **changes),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_of(folder):
    return [
        *("--", "experiment=quickstart", f'run_dir="{folder}"', "loop.num_steps=1"),
        *("task.num_prompts=24", "held_out.num_prompts=8", "rollout.max_tokens=64"),
        *("model.max_model_len=256", "evaluation.before=false", "evaluation.after=false"),
        *("scheduler.tickets_per_step=4", "scheduler.group_size=4"),
    ]


def test_a_job_trains_on_the_cluster_and_its_status_comes_back(job_server, tmp_path):
    # Survives two shells and hydra, or the run has another folder.
    folder = tmp_path / "it's $HOME (a)"
    job = (f"address={job_server}", "name=first", "env=[HF_HOME]")
    done = submit(*job, *run_of(folder), HF_HOME=str(tmp_path), WANDB_API_KEY="very-secret")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended as SUCCEEDED" in done.stdout
    assert "placement" in done.stdout
    unfolded = re.sub(r"[\s│]", "", done.stdout)
    assert str(folder).replace(" ", "") in unfolded
    assert "very-secret" not in done.stdout
    assert (folder / "summary.json").is_file()

    # The job's name and the run's folder are taken: neither is touched.
    (other := tmp_path / "somebody's").mkdir()
    (other / "notes.txt").write_text("not a run")
    again = submit(*job, *run_of(tmp_path / "other"))
    assert again.returncode == 2
    assert "name must be new on the cluster" in again.stderr
    taken = submit(f"address={job_server}", "name=second", *run_of(other))
    assert taken.returncode == 1
    assert "has no config.yaml" in taken.stdout
    assert "job second ended as FAILED" in taken.stderr
    assert [each.name for each in other.iterdir()] == ["notes.txt"]
    assert (other / "notes.txt").read_text() == "not a run"


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
