"""What a slope is, what is held, and that a long run is the one that trains."""

import asyncio
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from conf.studies import BenchConfig
from cost.types import RewardStatus, Ticket
from launch.cli.command_line import with_words
from launch.program import build
from launch.run.model_folder import resolve_model
from launch.study.bench.endurance import bench_endurance, profile_of
from launch.study.bench.growth import Readings, memory_of_tree, resident_bytes, slope
from launch.study.bench.timekeeping import TimekeepingLearner, TimekeepingRollouts
from launch.study.simulation.system import HeldGroups, simulated_prompts
from rollout.types import Sampling
from tests.composing import composed
from tests.launch.programs import call


def test_a_slope_is_that_from_end_to_end_with_the_spread_of_its_segments():
    steps = np.arange(1000.0)
    straight = slope(5e8 + 24 * steps)
    assert straight["mean"] == pytest.approx(24) and straight["half_width"] < 1e-6
    # Leaps of 4 kB every 100 steps on average, none of them in the warm-up.
    rng = np.random.default_rng(0)
    covered = [
        (found := slope(4096 * np.cumsum(rng.random(1000) < 0.01)))["mean"] - found["half_width"]
        <= 40.96
        <= found["mean"] + found["half_width"]
        for _ in range(200)
    ]
    assert 0.9 <= np.mean(covered) <= 0.99
    # What the warm-up takes is no growth.
    flat = np.where(steps < 50, 0.0, 1e9)
    assert slope(flat) == {"mean": 0.0, "half_width": 0.0}
    assert slope(np.zeros(9)) == {"mean": None, "half_width": None}


def test_readings_have_figures_at_the_marks_and_files_with_their_growth(tmp_path):
    readings = Readings(20, tmp_path)
    for step in range(1, 21):
        (tmp_path / "metrics.jsonl").write_text("x" * 100 * step)
        (tmp_path / "config.yaml").write_text("y" * 7)
        readings.take({"memory/driver": 1000.0 + step, "driver": step / 10})
    readings.take({"driver": 1e9})
    assert readings.growth("memory/driver")["at"] == {"2": 1002.0, "10": 1010.0, "20": 1020.0}
    # Steps 3 to 20.
    assert readings.spread("driver")["median"] == pytest.approx(1.15)
    assert readings.spread("driver")["largest"] == 2.0
    assert readings.files() == {
        "config.yaml": {"bytes": 7.0, "bytes_per_step": 0.0},
        "metrics.jsonl": {"bytes": 2000.0, "bytes_per_step": 100.0},
    }


def test_memory_is_told_of_every_process_below_one():
    # What it holds still grows until it has said so.
    code = "print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        child.stdout.readline()
        own = resident_bytes(child.pid)
        found = memory_of_tree(os.getpid())
        name = next(key for key in found if key.startswith("python"))
        # The kernel may take cold pages in between.
        assert found[name] > 0.9 * own > 0
        child.communicate(b"\n")
    assert resident_bytes(child.pid) == 0


def test_references_are_counted_until_nobody_holds_them():
    async def main():
        store, (prompt,) = HeldGroups(), simulated_prompts(np.array([4]))
        rollouts = TimekeepingRollouts(profile_of(1, 100), SimpleNamespace(observe=Told()), 0)
        report, group = await rollouts.run(Ticket(0, 0, 3, 1.0, 1.0, 100), prompt)
        held = store.hold(group.ticket, prompt, report)
        assert store.num_alive == 1
        made = await held
        assert [len(t.token_ids) for t in made.trajectories] == report.lengths.tolist()
        del held
        return store.num_alive

    assert asyncio.run(main()) == 0


class Told:
    """Stands for an actor's method."""

    def __init__(self):
        self.reports = []

    async def remote(self, report):
        self.reports.append(report)


def test_rollouts_without_an_engine_report_what_they_hand_over():
    async def main():
        told = Told()
        rollouts = TimekeepingRollouts(profile_of(5, 100), SimpleNamespace(observe=told), 0)
        prompts = simulated_prompts(np.arange(1, 6))
        await rollouts.finish_weight_update(7)
        ticket = Ticket(3, 2, 4, 0.2, 1.0, 100, attempt=1)
        report, group = await rollouts.run(ticket, prompts[2])
        assert told.reports == [report]
        assert (report.version, report.attempt, report.prompt_tokens) == (7, 1, 3)
        assert (report.status == RewardStatus.OK).all() and len(group.rewards) == 4
        scored = await rollouts.evaluate(ticket, prompts[2], Sampling(0.0))
        assert scored.lengths.tolist() == report.lengths.tolist() and len(told.reports) == 1
        return await rollouts.progress(0, 1.0)

    assert asyncio.run(main()) == (4, {})


def test_a_learner_without_a_model_takes_a_step_a_plan(monkeypatch):
    fetched = []
    monkeypatch.setattr("ray.get", fetched.append)
    learner = TimekeepingLearner([])
    plans = [SimpleNamespace(rows=[((0, 0),)]), SimpleNamespace(rows=[])]
    found = learner.update(["first", None, "third"], [], plans, 0)
    assert fetched == [["first", "third"]]
    assert [sums.num_rows for sums in found] == [1, 0]
    assert all(sums.outcome.applied for sums in found)


def configured(*arguments: str) -> BenchConfig:
    chosen = composed("bench", *with_words(["endurance", *arguments], "benches"))
    chosen.model.path = resolve_model(chosen.model.path)
    config = build(chosen)
    assert isinstance(config, BenchConfig)
    return config


@pytest.fixture
def without_picture(monkeypatch):
    """A picture takes longer than all else."""
    monkeypatch.setattr("launch.run.training.draw_picture", lambda *arguments, **named: None)


@pytest.mark.usefixtures("without_picture")
def test_a_long_run_lets_go_of_its_groups_and_writes_what_a_run_writes(capsys):
    config = configured(
        "endurance.num_steps=30", "endurance.num_prompts=40", "endurance.many_prompts=60",
        "endurance.many_steps=4", "endurance.traced_steps=6", "scheduler.tickets_per_step=3",
        "scheduler.group_size=2", "evaluation.every=5", "loop.max_staleness=1",
    )  # fmt: skip
    found = json.loads(json.dumps(bench_endurance(config), allow_nan=False))
    assert capsys.readouterr().out == ""
    assert set(found) == {"long", "traced", "many_prompts"}
    long, many = found["long"], found["many_prompts"]
    assert (long["num_steps"], long["num_prompts"]) == (30, 40)
    assert (many["num_steps"], many["num_prompts"]) == (4, 60)
    # Those of the batch that is learned and of the one in generation.
    assert 0 < long["references"]["largest"] <= 2 * 3
    assert set(long["memory"]["driver"]["at"]) == {"3", "15", "30"}
    assert all(value > 0 for value in long["memory"]["driver"]["at"].values())
    for clock in ("cpu", "elapsed"):
        assert 0 < long["milliseconds"][clock]["median"] <= long["milliseconds"][clock]["largest"]
    assert {"metrics.jsonl", "cells.jsonl", "samples.jsonl"} <= set(long["run_folder"])
    assert long["run_folder"]["metrics.jsonl"]["bytes_per_step"] > 1000
    assert all(value > 0 for value in found["traced"]["memory"]["at"].values())
    assert all(":" in place["place"] for place in found["traced"]["places"])


@pytest.mark.usefixtures("without_picture")
def test_legs_of_no_steps_are_left_out():
    config = configured(
        "endurance.num_steps=1", "endurance.num_prompts=9", "endurance.many_steps=0",
        "endurance.traced_steps=0", "scheduler.tickets_per_step=1", "scheduler.group_size=2",
        "evaluation.before=false", "evaluation.after=false",
    )  # fmt: skip
    assert set(bench_endurance(config)) == {"long"}


def test_settings_out_of_range_are_refused():
    done = call("launch.bench", "endurance", "endurance.num_steps=0")
    assert done.status == 2 and "endurance.num_steps must be at least 1, got 0" in done.err
