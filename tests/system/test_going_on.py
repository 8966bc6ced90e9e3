"""Runs that are stopped, and parts that are killed, on the real stack."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.record.restarts import read_restarts
from tests.places import PROJECT

pytestmark = pytest.mark.system
NUM_STEPS = 6
SMALL = [
    "experiment=quickstart",
    "resume=auto",
    "task.num_prompts=24",
    "held_out.num_prompts=8",
    "rollout.max_tokens=64",
    "model.max_model_len=256",
    "scheduler.tickets_per_step=4",
    "scheduler.group_size=4",
    "evaluation.before=false",
    "evaluation.after=false",
    "checkpoint.every_steps=1",
]


def train(run_dir, *overrides):
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, "-m", "launch.train", *SMALL, f"run_dir={run_dir}", *overrides],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def lines_of(run_dir):
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.open()] if path.exists() else []


def wait_for_step(process, run_dir, step):
    deadline = time.monotonic() + 240
    while len(lines_of(run_dir)) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} did not come"
        time.sleep(0.05)


def without_seconds(lines):
    return [
        {
            key: value
            for key, value in line.items()
            if "second" not in key and key != "time" and not key.startswith("checkpoint/")
        }
        for line in lines
    ]


def test_a_run_that_goes_on_is_the_same_to_the_bit(tmp_path):
    settings = ["loop.max_staleness=0", f"loop.num_steps={NUM_STEPS}", "checkpoint.keep_last=9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, out = finished(train(whole, *settings))
    assert status == 0, out
    # As a kill in the fourth step leaves it.
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "policy")
    # While one is being written none is taken: there may not be one of every step.
    steps = {int(path.name[5:]): path for path in (killed / "checkpoints").iterdir()}
    for step in [step for step in steps if step > 3]:
        shutil.rmtree(steps.pop(step))
    status, out = finished(train(killed, *settings))
    assert status == 0, out
    assert without_seconds(lines_of(killed)) == without_seconds(lines_of(whole))
    weights = [(path / "policy" / "model.safetensors").read_bytes() for path in (whole, killed)]
    assert weights[0] == weights[1]
    assert (whole / "samples.jsonl").read_text() == (killed / "samples.jsonl").read_text()
    (restart,) = read_restarts(killed)
    assert (restart.step, restart.lost_steps) == (max(steps), NUM_STEPS - max(steps))


def processes_of(driver, title):
    """Ids of the processes that a driver started, directly or not, with such a title."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue

    def belongs(pid):
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [
        pid
        for pid in parents
        if belongs(pid) and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode())
    ]


def test_whatever_is_killed_the_run_goes_on_and_a_signal_ends_it(tmp_path):
    run_dir = tmp_path / "run"
    process = train(run_dir, "loop.max_staleness=1", "loop.num_steps=400")
    for step, title in (
        (2, "ray::SchedulerActor"),
        (8, "VLLM::EngineCore"),
        (14, "ray::LearnerWorker"),
    ):
        wait_for_step(process, run_dir, step)
        (victim,) = processes_of(process.pid, title)
        os.kill(victim, signal.SIGKILL)
        # What was learned after the newest checkpoint is learned anew.
        time.sleep(5)
    wait_for_step(process, run_dir, 18)
    process.send_signal(signal.SIGTERM)
    status, out = finished(process)
    assert status == 128 + signal.SIGTERM, out
    last = out.strip().splitlines()[-1]
    steps = [line["step"] for line in lines_of(run_dir)]
    assert steps == list(range(1, len(steps) + 1))
    assert f"stopped by SIGTERM after step {steps[-1]}; the policy as learned until then is" in last
    assert f"go on from step {steps[-1]} with `python -m launch.train resume={run_dir}`" in last
    reasons = [restart.reason.split(";")[0] for restart in read_restarts(run_dir)]
    assert len(reasons) == 2
    assert reasons[0].startswith("scheduler ") and reasons[1].startswith("learner 0 ")
    found = lines_of(run_dir)[-1]
    assert found["cost/failed_tickets"] == 0
    # Those of the batches learned, none twice; of the next one what had been reported by then.
    assert 4 * len(steps) <= found["cost/tickets"] <= 4 * len(steps) + 4
