"""The program `launch.train`, run as a user does, at small size."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

from tests.places import PROJECT

PATIENCE_SECONDS = 900
"""For what takes one minute: others may be at work on the machine."""

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


@contextmanager
def train(run_dir, *overrides, **options):
    """Start the program; it is killed where it goes on at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "launch.train", *SMALL, f"run_dir={run_dir}", *overrides],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process):
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out


def lines_of(run_dir):
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    # The last one may be half there.
    return [json.loads(line) for line in path.open() if line.endswith("\n")]


def wait_for_step(process, run_dir, step):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(lines_of(run_dir)) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} did not come"
        time.sleep(0.05)
