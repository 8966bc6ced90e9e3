"""Whole runs with real Ray, vLLM and DeepSpeed on CPU."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import launch.run.measuring
from rollout.places import ray_logs
from rollout.processes import belongs, every, look
from tests.processes import command_line, descendants, engine_of, listening, titled

pytestmark = pytest.mark.system


def load(path):
    return json.loads(Path(path).read_text())


def test_a_run_with_two_learners_survives_a_stopped_engine_and_names_a_stopped_scheduler(
    prepared, evaluate_config, on_cluster
):
    """Tied model, ZeRO 2 over two ranks, staleness 1, keys and values kept over updates."""
    from launch.record.startup import Startup
    from launch.run.deaths import PartDied
    from launch.run.system import System
    from launch.run.training import TrainingRun

    inputs = prepared(
        "resources.num_learners=2",
        "resources.learner_cpus=0.5",
        "learner.zero_stage=2",
        "learner.num_minibatches=2",
        "loop.num_steps=5",
        "loop.max_staleness=1",
        "rollout.update_mode=keep_kv",
        "resources.silence_seconds=5",
    )
    run_dir = Path(inputs.config.run_dir)
    probe = [(prompt.token_ids, prompt.token_ids[:5]) for prompt in inputs.prompts[:3]]

    async def main():
        system = await System.create(inputs.config, inputs.prompts, Startup())
        try:
            run = TrainingRun(inputs, system, began=time.monotonic())
            stopping = asyncio.create_task(stop_engine_after(system, step=2))
            await run.run(Startup())
            core = await stopping
            assert system.rollouts.num_replaced == 1
            assert_nothing_is_open_to_others(run_dir)
            logprobs = await system.learners.logprobs(probe)
            scheduler, began = stopped(titled("ray::Scheduler")), time.monotonic()
            with pytest.raises(PartDied) as found:
                await system.guard(asyncio.sleep(600))
            assert time.monotonic() - began < 300
            assert_a_stopped_scheduler_is_named(found.value, scheduler)
            return logprobs, core, scheduler
        finally:
            await system.close()

    async def stop_engine_after(system, step):
        while system.version < step:
            await asyncio.sleep(0.05)
        return stopped(engine_of())

    async def main_and_evaluate():
        """vLLM loads what the run saved, from disk and without a learner."""
        found = await main()
        raylet = next(pid for pid in descendants() if "/raylet" in command_line(pid))
        return *found, raylet, await launch.run.measuring.evaluate(evaluation, inputs.sets)

    evaluation = evaluate_config(f"model.path={run_dir / 'policy'}")
    logprobs, core, scheduler, raylet, evaluated = on_cluster(
        inputs.config.resources, main_and_evaluate
    )
    assert look(core) is None and look(scheduler) is None
    assert [p for p in every() if belongs(p.pid, f"RAY_RAYLET_PID={raylet}")] == []

    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5]
    assert all(m["loop/staleness"] <= 1 for m in metrics)
    # The version that a replaced engine missed is not checked.
    checked = [m["parity/max_logprob_difference"] for m in metrics if "parity/flops" in m]
    assert len(checked) >= 2 and max(checked) < 1e-4
    assert all(m["learner/optimizer_steps"] + m["learner/empty_steps"] == 2 for m in metrics)

    summary = load(run_dir / "summary.json")
    assert summary["num_steps"] == 5
    assert summary["versions_published"] == 6
    assert summary["failed_tickets"] == 0
    assert 0 < summary["trained_tokens"] < summary["selectable_tokens"]
    assert summary["selectable_tokens"] <= summary["generated_tokens"]
    assert (run_dir / "run.png").stat().st_size > 10_000
    assert "run_dir" in (run_dir / "config.yaml").read_text()

    # Greedy responses of engines that hold the same weights earn the same.
    assert evaluated.held_out()[1].pass_rate == summary["greedy_after"]
    lines = (Path(evaluation.run_dir) / "responses.jsonl").read_text().splitlines()
    greedy = [row for row in map(json.loads, lines) if row["greedy"]]
    assert len(lines) == 3 * len(greedy) == 3 * evaluated.held_out()[1].num_prompts
    assert np.mean([row["reward"] for row in greedy]) == pytest.approx(summary["greedy_after"])
    assert_checkpoint_holds_the_policy(
        run_dir / "policy", inputs.config.model.path, probe, logprobs
    )


def stopped(pid):
    """Stop a process."""
    os.kill(pid, signal.SIGSTOP)
    return pid


def assert_a_stopped_scheduler_is_named(death, pid):
    """In one line, with its log and what all others were at."""
    assert death.part == "scheduler" and death.how.endswith("s: its process is stopped")
    assert "\n" not in str(death)
    assert death.log.endswith(f"-{pid}.err") and Path(death.log).exists()
    expected = ["learner-0.txt", "learner-1.txt", "rollout-actor-0.txt", "scheduler.txt"]
    deadline = time.monotonic() + 60
    # What takes longer to be described holds up nobody, and is written later.
    while (names := names_in(death.stacks)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert names == expected


def names_in(stacks):
    return sorted(path.name.split("-", 2)[2] for path in Path(stacks).iterdir())


def assert_nothing_is_open_to_others(run_dir):
    """What the run started listens on loopback alone, asks for a token and shows it to nobody."""
    pids = descendants()
    sockets = listening(pids)
    for part in ("gcs_server", "raylet", "ray::LearnerWorker", "ray::RolloutActor"):
        assert any(part in command for _, command in sockets), part
    assert [each for each in sockets if not each[0].is_loopback] == []
    assert os.environ["RAY_AUTH_MODE"] == "token"
    path = Path.home() / ".ray" / "auth_token"
    assert path.stat().st_mode & 0o077 == 0
    token = path.read_text()
    assert [command for pid in pids if token in (command := command_line(pid))] == []
    written = [file for at in (ray_logs(), run_dir) for file in Path(at).rglob("*")]
    assert [p for p in written if p.is_file() and token.encode() in p.read_bytes()] == []


def assert_checkpoint_holds_the_policy(path, start, probe, logprobs):
    """transformers computes from the saved files what the learners computed; it is a new policy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved, first = (
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (path, start)
    )
    assert AutoTokenizer.from_pretrained(path).chat_template
    changed = False
    for (prompt, response), expected in zip(probe, logprobs, strict=True):
        row = torch.tensor(np.concatenate([prompt, response]))[None].long()
        with torch.no_grad():
            scores, before = (m(row).logits[0].log_softmax(-1) for m in (saved, first))
        index = (torch.arange(len(prompt) - 1, row.shape[1] - 1), row[0, len(prompt) :])
        np.testing.assert_allclose(scores[index].numpy(), expected, atol=1e-4)
        changed |= not torch.allclose(scores[index], before[index], atol=1e-6)
    assert changed
