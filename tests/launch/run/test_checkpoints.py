"""Checkpoints beside the training: however long updates take, and never missed in silence."""

import asyncio
import logging
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from conf.checkpoint import CheckpointConfig
from conf.resources import ResourcesConfig
from cost.state_file import save_state
from launch.record.checkpoint import newest_checkpoint
from launch.run import remote
from launch.run.checkpoints import Checkpoints
from launch.run.deaths import PartDied
from launch.run.remote import Watch
from launch.study.simulation.clock import run
from learner.config import LearnerConfig
from learner.team import LearnerTeam

WRITE_SECONDS = 30


class Worker:
    """A learner that answers one call after the other, and writes beside them."""

    def __init__(self, update_seconds):
        self.update_seconds, self.written_at = update_seconds, 0.0
        self.turn = asyncio.Lock()

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *_: asyncio.create_task(self.answer(name)))

    async def answer(self, name):
        async with self.turn:
            now = asyncio.get_running_loop().time()
            if name == "update":
                await asyncio.sleep(self.update_seconds)
            elif name == "snapshot":
                self.written_at = now + WRITE_SECONDS
            elif name == "written":
                return now >= self.written_at, None


class Scheduler:
    """Writes nothing worth reading."""

    error = None

    async def call(self, method, *arguments):
        if self.error is not None:
            raise self.error
        if method == "write":
            save_state(Path(*arguments), {})


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "ray_logs", lambda: "/logs")

    def build(update_seconds=1):
        config = SimpleNamespace(
            resources=ResourcesConfig(),
            run_dir=str(tmp_path),
            learner=LearnerConfig(update_deadline_seconds=3600.0),
            loop=SimpleNamespace(publish_deadline_seconds=600.0),
            rollout=SimpleNamespace(update_mode="recompute"),
        )
        team = LearnerTeam([Worker(update_seconds)], config.learner, seed=0)
        Watch(config).give_time(team, config)
        system = SimpleNamespace(scheduler=Scheduler(), learners=team)
        return Checkpoints(CheckpointConfig(), tmp_path, system, {}), system

    return build


def at(batch):
    return SimpleNamespace(batch=batch, held=dict, state_dict=dict)


@pytest.mark.parametrize("update_seconds", [1, 60, 1000])
def test_a_checkpoint_is_written_beside_an_update_of_any_length(make, tmp_path, update_seconds):
    async def scenario():
        checkpoints, system = make(update_seconds)
        worker = system.learners.workers[0]
        for step in (1, 2, 3):
            await checkpoints.save(at(step), {})
            await system.learners._wait([worker.update.remote()], "update")
            await checkpoints.finish()
        return checkpoints.last_step

    assert run(scenario()) == 3
    assert newest_checkpoint(tmp_path)[0].step == 3


def died():
    error = ray.exceptions.ActorDiedError()
    error.actor_id = "abc"
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PartDied("scheduler", "took longer for write than 120 s", "/logs"), True),
        (OSError(28, "No space left on device"), True),
        # By whoever needs it next.
        (died(), False),
    ],
)
def test_why_a_checkpoint_is_not_written_is_told_unless_a_part_died(make, caplog, error, told):
    async def scenario():
        checkpoints, system = make()
        system.scheduler.error = error
        for step in (1, 2):
            await checkpoints.save(at(step), {})
        await checkpoints.finish()
        return checkpoints.last_step

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(scenario()) == -1
    lines = [record.message for record in caplog.records]
    assert len(lines) == told
    if told:
        assert "no checkpoint could be written in" in lines[0]
        reason = error.how if isinstance(error, PartDied) else error.strerror
        assert reason in lines[0]


def test_what_is_written_down_is_on_the_disk_before_the_checkpoint_has_its_name(
    make, tmp_path, monkeypatch
):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    done, fsync, rename = [], os.fsync, Path.rename

    def on_disk(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(path, target):
        done.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", on_disk)
    monkeypatch.setattr(Path, "rename", renamed)

    async def scenario():
        checkpoints, _ = make()
        await checkpoints.save(at(1), {})
        await checkpoints.finish()

    run(scenario())
    assert done.index("metrics.jsonl") < done.index("step-00000001")


def test_the_command_to_go_on_with_can_be_pasted_into_a_shell(tmp_path):
    for name, written in (("a-1", "resume={}"), ("it's a läuf", None)):
        run_dir = tmp_path / name
        checkpoints = Checkpoints(CheckpointConfig(), run_dir, SimpleNamespace(), {})
        checkpoints.last_step = 4
        command = checkpoints.way_on.split("`")[1]
        assert shlex.split(command)[-1] == f"resume={run_dir}"
        assert written is None or command.endswith(written.format(run_dir))
