"""Trackers: what they write, and that one that fails does not take the others along."""

import json
import math
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cost.draws.distribution import DrawCells
from cost.types import LengthReport, Selection
from launch.record.restarts import cut_back
from launch.record.run_folder import read_cells, read_samples
from launch.record.tracking import (
    ConsoleTracker,
    JsonlTracker,
    RunInfo,
    Sample,
)
from tests.examples import example
from tests.places import CONF

SAMPLE = Sample("2+2?", "it is 4", "4", "4", 1.0, 4, 0.5, 2.0)


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo("test", tmp_path / "test-run", {"seed": 3, "learner": {"lr": 1e-5}}, 2)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "folder", "title"),
    [
        ("quickstart", "runs/quickstart-20260901-120000", "quickstart-20260901-120000"),
        ("quickstart", "runs/mine", "quickstart/mine"),
        ("thinned-0", "runs/methods/thinned/seed-0", "thinned-0/seed-0"),
    ],
)
def test_lists_of_runs_tell_those_of_a_recipe_and_those_of_arms_apart(name, folder, title):
    assert RunInfo(name, Path(folder), {}, 2).title == title


def test_examples_are_of_the_response_that_the_scheduler_selected():
    report, selection, sample = example(LengthReport), example(Selection), example(Sample)
    assert example(RunInfo).config["loop"]["num_steps"] == example(RunInfo).num_steps
    assert sample.weight == selection.weight[0]
    assert sample.advantage == selection.advantages[0]
    assert sample.length_tokens == report.lengths[0]
    assert sample.reward == report.rewards[0]


def test_jsonl_round_trip_with_what_is_not_finite_as_null(run):
    tracker = JsonlTracker().open(run)
    tracker.log(1, {"rollout/reward_mean": 0.5, "learner/loss": math.nan, "x/y": math.inf})
    written = lines(run.run_dir / "metrics.jsonl")
    assert written[0].pop("time") > 0
    assert written == [{"step": 1, "rollout/reward_mean": 0.5, "learner/loss": None, "x/y": None}]
    tracker.samples(1, [SAMPLE])
    tracker.close({})
    assert lines(run.run_dir / "samples.jsonl") == [
        {
            "step": 1,
            "prompt": "2+2?",
            "response": "it is 4",
            "answer": "4",
            "expected": "4",
            "reward": 1.0,
            "length_tokens": 4,
            "advantage": 0.5,
            "weight": 2.0,
            "end": "answer",
            "failure": "",
            "turns": [],
        }
    ]


def test_jsonl_appends_when_a_run_goes_on(run):
    for step in (1, 2):
        tracker = JsonlTracker().open(run)
        tracker.log(step, {})
        tracker.close({})
    assert [record["step"] for record in lines(run.run_dir / "metrics.jsonl")] == [1, 2]


def test_jsonl_goes_on_with_the_files_of_a_run_without_a_stop(run):
    """Through the state of a checkpoint, which lies on disk as strict JSON."""
    setting, one = JsonlTracker(most_samples=4, most_cells=6), np.ones(3, dtype=np.int64)

    def go(tracker, steps):
        states = {}
        for step in steps:
            tracker.log(step, {"x": step / 3})
            tracker.cells(step, DrawCells(one, one, one, np.ones(3) / step))
            if step % 3 == 1:
                tracker.samples(step, [replace(SAMPLE, reward=step / 7)] * (step % 2 + 1))
            states[step] = json.loads(json.dumps(tracker.state_dict(), allow_nan=False))
        tracker.close({})
        return states

    whole = replace(run, run_dir=run.run_dir.with_name("whole"))
    go(setting.open(whole), range(1, 101))
    states = go(setting.open(run), range(1, 42))
    for checkpoint, stop in ((30, 90), (60, 100)):
        cut_back(run.run_dir, checkpoint)
        state = states[checkpoint]
        went_on = setting.open(replace(run, first_step=checkpoint, state=state))
        assert went_on.state_dict() == state
        states |= go(went_on, range(checkpoint + 1, stop + 1))
    for name in ("samples.jsonl", "cells.jsonl"):
        assert (run.run_dir / name).read_bytes() == (whole.run_dir / name).read_bytes()
    metrics = [lines(each.run_dir / "metrics.jsonl") for each in (run, whole)]
    assert [[m["step"], m["x"]] for m in metrics[0]] == [[m["step"], m["x"]] for m in metrics[1]]


def test_jsonl_keeps_lines_while_the_disk_is_full_and_writes_them_once_there_is_room(run, full_at):
    tracker = JsonlTracker().open(run)
    tracker.log(1, {"x": 1.0})
    size = (run.run_dir / "metrics.jsonl").stat().st_size
    full_at(size + 20)
    for step in (2, 3):
        with pytest.raises(OSError, match="File too large"):
            tracker.log(step, {"x": 1.0})
        with pytest.raises(OSError, match="File too large"):
            tracker.samples(step, [SAMPLE] * 2)
        assert [line["step"] for line in lines(run.run_dir / "metrics.jsonl")] == [1]
        assert (run.run_dir / "samples.jsonl").read_bytes() == b""
    before = time.time()
    full_at(10**6)
    tracker.log(4, {"x": 1.0})
    tracker.close({})
    found = lines(run.run_dir / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    # A line tells when its step was logged, not when there was room.
    assert found[2]["time"] < before
    assert [line["step"] for line in lines(run.run_dir / "samples.jsonl")] == [2, 2, 3, 3]


def test_jsonl_says_at_its_end_what_it_lacks(run, full_at):
    tracker = JsonlTracker().open(run)
    full_at(0)
    for step in (1, 2):
        with pytest.raises(OSError):
            tracker.log(step, {})
    with pytest.raises(OSError, match=r"^metrics\.jsonl lacks 2 steps$"):
        tracker.close({})


def test_a_run_folder_grows_by_metrics_only(run):
    """Ten times the steps, the same samples and cells; metrics of every step."""
    tracker = JsonlTracker(most_samples=8, most_cells=16).open(run)
    one = np.ones(3, dtype=np.int64)
    sizes = []
    for step in range(1, 1001):
        tracker.log(step, {"rollout/reward_mean": 0.5})
        tracker.cells(step, DrawCells(one, one, one, np.ones(3) / 3))
        if step % 10 == 1:
            tracker.samples(step, [SAMPLE] * 8)
        if step in (100, 1000):
            folder = {path.name: len(lines(path)) for path in run.run_dir.iterdir()}
            sizes.append(folder)
    tracker.close({})
    assert sizes[1]["metrics.jsonl"] == 1000
    for found in sizes:
        assert 8 * 4 <= found["samples.jsonl"] <= 8 * 8 and 8 <= found["cells.jsonl"] <= 16
    kept = read_cells(run.run_dir)
    assert kept[0].step == 1 and kept[-1].step == 1000
    assert read_samples(run.run_dir, ("reward",))[-1]["step"] == 991


@pytest.mark.parametrize("key", ["most_samples", "most_cells"])
def test_a_file_that_may_hold_no_step_is_refused(key):
    with pytest.raises(ValueError, match=rf"^tracker\.jsonl\.{key} must be at least 2, got 1$"):
        JsonlTracker(**{key: 1})


def test_console_prints_a_line_a_step(run, capsys):
    tracker = ConsoleTracker().open(run)
    tracker.log(1, {"rollout/reward_mean": 0.25})
    tracker.samples(1, [SAMPLE])
    tracker.close({})
    assert tracker.state_dict() == {}
    assert capsys.readouterr().out.split("  ", 1)[1].startswith("step 1/2  reward 0.250")


def test_console_goes_on_where_the_run_does(run, capsys):
    tracker = ConsoleTracker().open(replace(run, num_steps=30, first_step=20))
    tracker.log(21, {f"loop/{turn}_seconds": 2.0 for turn in ("wait", "update", "publish")})
    assert capsys.readouterr().out.split("  ", 1)[1].startswith("step 21/30 ")


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("default", ["console", "jsonl", "ray"]),
        ("wandb", ["console", "jsonl", "ray", "wandb"]),
    ],
)
def test_yaml_builds_named_plugs_that_travel(group, names):
    folder = CONF / "tracker"
    with initialize_config_dir(str(folder), version_base="1.3"):
        plugs = instantiate(compose(group), _convert_="object")
    assert list(plugs) == names
    assert pickle.loads(pickle.dumps(plugs)) == plugs
