"""Generation and learning at once and apart, with time that is made up; cores of processes."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from launch.study.bench import overlap
from launch.study.bench.overlap import WAYS, Step, Steps, bench_overlap, figures
from launch.study.bench.rollout import Generated
from launch.study.simulation import clock


class Batches:
    """Each takes 3 seconds; later draws build on what is done."""

    def __init__(self):
        self.events, self.num_done = [], 0

    async def generate(self):
        batch = sum(kind == "draw" for kind, *_ in self.events)
        self.events.append(("draw", batch, self.num_done))
        await asyncio.sleep(3)
        group = SimpleNamespace(report=SimpleNamespace(attempt=batch, lengths=np.array([30, 40])))
        return Generated(batch, [], [], [group], 3.0)

    async def again(self, found):
        self.events.append(("again", found.batch))
        await asyncio.sleep(3)
        return found


class System:
    """Scheduler, learners and publisher in one; a step of theirs takes 2 seconds."""

    def __init__(self, events):
        self.scheduler = self.learners = self
        self.events, self.version = events, 0

    async def select(self, batch, attempts):
        self.events.append(("select", batch, attempts))
        return []

    async def update(self, groups, selections, *, step, epoch, progress):
        await asyncio.sleep(1.5)

    async def learned(self, batch, feedback):
        self.events.append(("learned", batch))

    async def publish(self, version, groups):
        await asyncio.sleep(0.5)
        self.version = version

    async def checked(self):
        await asyncio.sleep(10)


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setattr(overlap.time, "monotonic", lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(overlap, "pin", lambda: None)
    batches = Batches()
    return batches, System(batches.events)


def test_both_at_once_take_as_long_as_the_longer(simulated):
    batches, system = simulated
    found = clock.run(bench_overlap(system, batches, repetitions=2, warm_ups=1))
    assert found["median_seconds"] == pytest.approx(
        {"generation": 3.0, "learning": 2.0, "both": 3.0}
    )
    assert found["longer"] == "generation" and found["ratio"] == pytest.approx(1.0)
    assert found["median_tokens"] == {"generation": 70, "both": 70}
    assert all(len(found["repetitions"][way]) == 2 for way in WAYS)


def test_each_batch_is_learned_once_in_order_and_draws_build_on_what_was(simulated):
    batches, system = simulated

    async def turns():
        steps = Steps(system, batches)
        for _ in range(3):
            for way in WAYS:
                await steps.take(way)

    clock.run(turns())
    learned = [batch for kind, batch, *_ in batches.events if kind == "learned"]
    assert learned == list(range(len(learned))) and len(learned) == 6
    assert system.version == 6
    # Both at once have the batch that was generated alone just before, which nothing learned yet.
    fresh = [batch for kind, batch, *_ in batches.events if kind == "again"]
    assert fresh == [2, 4, 6]
    for batch in fresh:
        at = batches.events.index(("again", batch))
        assert ("learned", batch) not in batches.events[:at]
        assert batches.events.index(("learned", batch - 1)) > at
    for at, (kind, *rest) in enumerate(batches.events):
        if kind == "draw":
            done = sum(event[0] == "learned" for event in batches.events[:at])
            assert rest[1] == done


def test_the_longer_alone_is_what_both_are_held_against():
    turns = {"generation": [1.0, 1.0], "learning": [4.0, 5.0], "both": [4.4, 6.0]}
    found = figures({way: [Step(seconds, 0) for seconds in each] for way, each in turns.items()})
    assert found["longer"] == "learning"
    assert found["ratio"] == pytest.approx(5.2 / 4.5)
    assert found["smallest"] == pytest.approx(1.1) and found["largest"] == pytest.approx(1.2)


def test_processes_of_each_part_keep_to_cores_of_their_own(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is but one core")
    sleep = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); {}"
    below = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    programs = {"engines": sleep.format(below), "learners": sleep.format("input()")}
    made = {
        part: subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, start_new_session=True
        )
        for part, program in programs.items()
    }
    try:
        titles = {process.pid: overlap.PARTS[part] for part, process in made.items()}
        monkeypatch.setattr(overlap, "command", lambda pid: titles.get(pid, ""))
        monkeypatch.setattr(overlap.ray, "cluster_resources", lambda: {"CPU": 2.0})
        deadline = time.monotonic() + 60
        while not overlap.descendants(made["engines"].pid) or not all(
            len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 1 for process in made.values()
        ):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in made.values())
        found = overlap.pin()
        assert found is not None and set(found["engines"]).isdisjoint(found["learners"])
        for part, process in made.items():
            for pid in [process.pid, *(each.pid for each in overlap.descendants(process.pid))]:
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    assert os.sched_getaffinity(int(thread.name)) == set(found[part])
        assert sorted(os.sched_getaffinity(0)) == cores
        monkeypatch.setattr(overlap.ray, "cluster_resources", lambda: {"GPU": 1.0})
        assert overlap.pin() is None
    finally:
        for process in made.values():
            os.killpg(process.pid, 9)
            process.wait()
