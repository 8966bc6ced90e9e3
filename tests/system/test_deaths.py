"""Processes of a real run that are stopped: replaced or named, and nothing is left of any."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from rollout.processes import belongs, command, descendants, every, look

pytestmark = pytest.mark.system


def stopped(title):
    """Stop the process of this one's cluster that calls itself so."""
    (pid,) = (p.pid for p in descendants(os.getpid()) if command(p.pid).startswith(title))
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_stopped_engine_is_replaced_and_a_stopped_scheduler_is_named(prepared, on_cluster):
    from launch.record.startup import Startup
    from launch.run.deaths import PartDied
    from launch.run.system import System
    from launch.run.training import TrainingRun

    inputs = prepared(
        "loop.num_steps=4",
        "resources.silence_seconds=5",
        "evaluation.before=false",
        "evaluation.after=false",
        "parity.self_test=false",
    )
    run_dir = Path(inputs.config.run_dir)

    async def stop_engine_after(system, step):
        while system.version < step:
            await asyncio.sleep(0.05)
        return stopped("VLLM::EngineCore")

    async def main():
        system = await System.create(inputs.config, inputs.prompts, Startup())
        try:
            stopping = asyncio.create_task(stop_engine_after(system, step=1))
            await TrainingRun(inputs, system, began=time.time()).run(Startup())
            core, replaced = await stopping, system.rollouts.num_replaced
            raylet = next(p.pid for p in descendants(os.getpid()) if "/raylet" in command(p.pid))
            scheduler, began = stopped("ray::Scheduler"), time.monotonic()
            with pytest.raises(PartDied) as found:
                await system.guard(asyncio.sleep(600))
            return core, replaced, raylet, scheduler, found.value, time.monotonic() - began
        finally:
            await system.close()

    core, replaced, raylet, scheduler, death, seconds = on_cluster(inputs.config.resources, main)
    assert replaced == 1
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 4
    assert seconds < 60 and "\n" not in str(death)
    assert death.part == "scheduler" and death.how.endswith("s: its process is stopped")
    assert death.log.endswith(f"-{scheduler}.err") and Path(death.log).exists()
    names = sorted(path.name.split("-", 2)[2] for path in Path(death.stacks).iterdir())
    assert names == ["learner-0.txt", "rollout-actor-0.txt", "scheduler.txt"]
    assert [p for p in every() if belongs(p.pid, f"RAY_RAYLET_PID={raylet}")] == []
    assert look(core) is None and look(scheduler) is None
