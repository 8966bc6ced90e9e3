"""Two runs of one configuration, one after the other on engines and learners that stay up."""

import json
import subprocess
import sys

import pytest

from tests.places import PROJECT
from tests.system.program import PATIENCE_SECONDS

pytestmark = pytest.mark.system


def test_a_run_on_a_used_system_is_that_of_a_new_one(tmp_path):
    """A learning rate this high changes everything within a step, had it not been reset."""
    base = [
        "experiment=quickstart", "learner.lr=1e-3", "learner.warmup_steps=0",
        "loop.max_staleness=0", "task.num_prompts=24", "held_out.num_prompts=8",
        "rollout.max_tokens=128", "model.max_model_len=256", "evaluation.num_samples=2",
        "scheduler.tickets_per_step=8", "scheduler.group_size=4", "evaluation.every=2",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "launch.compare", f"run_dir={tmp_path}", "~arms",
        "+arms={first:[],second:[]}", "seeds=[0]", "budget={axis:steps,amount:3}",
        # Quoted, since each is an override of its own.
        f"base={base!r}",
    ]  # fmt: skip
    ran = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert ran.returncode == 0, ran.stderr[-3000:]

    steps = {}
    for arm in ("first", "second"):
        folder = tmp_path / arm / "seed-0"
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps[arm] = [json.loads(line) for line in lines]
        assert json.loads((folder / "summary.json").read_text())["completed"]
    first, second = steps["first"][0], steps["second"][0]
    # Requests carry seeds, so a new start gives the same responses up to rounding in the engine.
    assert second["cost/generated_tokens"] == pytest.approx(
        first["cost/generated_tokens"], rel=0.05
    )
    assert second["learner/grad_norm"] == pytest.approx(first["learner/grad_norm"], rel=0.2)
    assert second["cost/tickets"] == first["cost/tickets"] == 8
    assert second["parity/max_logprob_difference"] < 1e-3
    # Evaluated on the way after the second step, and no other.
    assert ["evaluation/pass_rate" in step for step in steps["second"]] == [False, True, False]
    # The third step of a run is far from its first; without a reset the second run began there.
    assert abs(steps["first"][2]["learner/entropy"] - first["learner/entropy"]) > 5 * abs(
        second["learner/entropy"] - first["learner/entropy"]
    )

    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["arm"] for row in content["arms"]] == ["first", "second"]
    assert content["curves_of"] == "held_out" and (tmp_path / "comparison.html").exists()
    before = (tmp_path / "first" / "seed-0" / "summary.json").stat().st_mtime_ns
    again = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert again.returncode == 0 and "ready" not in again.stdout, again.stdout
    assert (tmp_path / "first" / "seed-0" / "summary.json").stat().st_mtime_ns == before
