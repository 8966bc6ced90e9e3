"""What watches over a run: which parts, how long they are given, and what becomes of the late."""

import asyncio
from types import SimpleNamespace

import pytest

from conf.resources import ResourcesConfig
from launch.run import health, remote
from launch.run.deaths import PartDied
from launch.run.remote import RemoteScheduler, Watch
from launch.study.simulation.clock import run
from learner.config import LearnerConfig


class Handle:
    """An actor whose every method takes some seconds."""

    def __init__(self, name, seconds=0.0):
        self._actor_id, self.seconds = SimpleNamespace(hex=lambda: name), seconds

    def __getattr__(self, method):
        return SimpleNamespace(remote=self._answer)

    async def _answer(self, *arguments):
        await asyncio.sleep(self.seconds)
        return arguments


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "ray_logs", lambda: "/logs")
    monkeypatch.setattr(health, "ray_logs", lambda: "/logs")
    return Watch(SimpleNamespace(resources=ResourcesConfig(), run_dir=str(tmp_path)))


def names(watch):
    return [watched.part.name for watched in watch.health._living()]


def test_parts_are_those_of_now_and_only_actors_of_the_pool_are_replaced(watch):
    lost = []
    pool = SimpleNamespace(
        handles=[Handle("a"), Handle("b"), Handle("roomless")],
        actors=SimpleNamespace(
            lose=lambda *arguments: lost.append(arguments),
            # Who has no room yet is not asked.
            places=SimpleNamespace(present=lambda: list(enumerate(pool.handles[:2]))),
        ),
    )
    watch.scheduler(Handle("s"))
    watch.learners([Handle("l0"), Handle("l1")])
    watch.rollouts(pool)
    actors = ["rollout actor 0", "rollout actor 1"]
    assert names(watch) == ["scheduler", "learner 0", "learner 1", *actors]
    pool.handles[1] = new = Handle("c")
    parts = [watched.part for watched in watch.health._living()]
    assert [part.lost is not None for part in parts] == [False] * 3 + [True] * 2
    assert [part.group for part in parts] == [None, *["health"] * 2, None, None]
    death = PartDied("rollout actor 1", "died", "/logs")
    parts[-1].lost(death)
    assert lost == [(1, new, death)]
    watch.learners([Handle("l0")])
    watch.begin(SimpleNamespace(run_dir="/other"))
    assert names(watch) == ["learner 0", *actors]
    assert str(watch.health.run_dir) == "/other"


@pytest.mark.parametrize(
    ("died", "dead", "left"),
    [
        ("scheduler", [], ["learner 0", "learner 1"]),
        ("scheduler", [1], []),
        ("learner 0", [], []),
        ("learners", [], []),
        ("data of finished groups", [], ["learner 0", "learner 1"]),
    ],
)
def test_what_is_started_anew_after_a_death_is_watched_no_longer(watch, died, dead, left):
    watch.scheduler(Handle("s"))
    watch.learners([Handle("l0"), Handle("l1")])
    _, *learners = watch.health._living()
    for rank in dead:
        learners[rank].dead = True
    assert watch.give_up(PartDied(died, "died", "/logs")) is (not left)
    assert names(watch) == left


def test_a_scheduler_that_takes_too_long_counts_as_dead(watch, tmp_path):
    async def scenario():
        scheduler = RemoteScheduler(Handle("s", seconds=100.0), watch.deadlines)
        assert await scheduler.call("draw", 3, 2) == (3, 2)
        scheduler.handle.seconds = 1000.0
        watch.scheduler(scheduler.handle)
        with pytest.raises(PartDied) as found:
            await scheduler.call("draw", 4, 3)
        return found.value

    death = run(scenario())
    assert death.part == "scheduler" and death.stacks == str(tmp_path / "stacks")
    assert str(death).startswith("scheduler took longer for draw than its deadline = 120; logs")


@pytest.mark.parametrize(("mode", "least"), [("recompute", 120), ("drain", 600)])
def test_learners_are_given_time_by_what_they_took_but_not_to_wait_for_responses(
    watch, mode, least
):
    async def scenario():
        team = SimpleNamespace()
        config = SimpleNamespace(
            learner=LearnerConfig(update_deadline_seconds=3600.0),
            loop=SimpleNamespace(publish_deadline_seconds=600.0),
            rollout=SimpleNamespace(update_mode=mode),
        )
        watch.give_time(team, config)
        loop, late = asyncio.get_running_loop(), {}
        for what in ("update", "publish"):
            async with team.limit(what):
                await asyncio.sleep(3)
            began = loop.time()
            with pytest.raises(PartDied, match=rf"^learners took longer for {what} than"):
                async with team.limit(what):
                    await asyncio.sleep(1e6)
            late[what] = loop.time() - began
        return late

    late = run(scenario())
    assert 120 <= late["update"] <= 130
    assert least <= late["publish"] <= least + 10
