"""The picture is written, whatever is missing; its inputs are read right."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cost.draws.distribution import DrawDistribution
from launch.record.picture import (
    _headline,
    _panels,
    _probability_panel,
    _tokens_panel,
    draw_picture,
)
from launch.record.restarts import note_restart
from launch.record.smoothing import smoothed


def distribution(num_prompts: int, *, uniform: bool = False) -> DrawDistribution:
    rng = np.random.default_rng(0)
    raw = np.ones(num_prompts) if uniform else rng.random(num_prompts)
    raw[0] = 1.0 if uniform else 0.0
    return DrawDistribution(
        probabilities=raw / raw.sum(),
        lengths=rng.uniform(10, 300, num_prompts),
        pass_rates=rng.random(num_prompts),
        utilities=np.ones(num_prompts),
        costs=np.ones(num_prompts),
    )


def write_metrics(path: Path, num_steps: int) -> Path:
    with path.open("w") as file:
        for step in range(1, num_steps + 1):
            record = {
                "step": step,
                "time": 0.0,
                "rollout/reward_mean": None if step == 2 else 0.1 * step,
                "rollout/pass_rate": 0.1 * step,
                "rollout/length_mean_tokens": 100.0 - step,
                "loop/generated_tokens": 5000.0,
                "cost/step_selectable_tokens": 4800.0,
                "cost/step_trained_tokens": 2400.0,
                "loop/wait_seconds": 4.0,
                "loop/update_seconds": 2.0,
                "loop/publish_seconds": 0.5,
                "loop/staleness": 1.0,
            }
            file.write(json.dumps(record) + "\n")
    return path


SUMMARY = {
    "pass_rate_before": 0.1,
    "pass_rate_before_half_width": 0.04,
    "pass_rate_after": 0.5,
    "pass_rate_after_half_width": math.nan,
    "generated_tokens": 50_000,
    "trained_tokens": 24_000,
    "saved_share": 0.5,
}


@pytest.mark.parametrize(
    ("num_steps", "num_prompts", "uniform"), [(6, 40, False), (1, 1, True), (0, 5000, False)]
)
def test_picture_is_written(tmp_path, num_steps, num_prompts, uniform):
    write_metrics(tmp_path / "metrics.jsonl", num_steps)
    draw_picture(tmp_path, distribution(num_prompts, uniform=uniform), summary=SUMMARY)
    content = (tmp_path / "run.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_none_of_the_prompts_that_are_shown_need_have_a_chance():
    # As where nearly all of many prompts are retired.
    many = distribution(50_000)
    last = replace(many, probabilities=np.eye(1, 50_000, 0)[0])
    axes = Figure().subplots()
    _probability_panel(axes, last)
    assert len(axes.collections[0].get_offsets()) == 4000


def test_picture_of_a_run_that_left_nothing(tmp_path):
    draw_picture(tmp_path, None)
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_smoothed_skips_nan_and_keeps_a_constant():
    assert smoothed(np.array([3.0, math.nan, 3.0])).tolist() == pytest.approx([3, 3, 3])
    assert math.isnan(smoothed(np.array([math.nan, 1.0]))[0])
    assert smoothed(np.array([0.0, 1.0]), decay=0.5)[1] == pytest.approx(1 / 1.5)


def test_restarts_are_drawn_and_said(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, draw = [], Axes.axvline
    monkeypatch.setattr(
        Axes, "axvline", lambda axes, x, **how: drawn.append(x) or draw(axes, x, **how)
    )
    write_metrics(tmp_path / "metrics.jsonl", 6)
    for step in (2, 4, 6):
        note_restart(tmp_path, step=step, reason="resumed after SIGTERM")
    facts = SUMMARY | {"restarts": 3, "lost_steps": 6}
    draw_picture(tmp_path, distribution(40), summary=facts)
    assert drawn == [2.5] * 4 + [4.5] * 4
    assert "3 restarts, 6 steps taken anew" in _headline(facts)
    assert "restart" not in _headline(SUMMARY | {"restarts": 0, "lost_steps": 0})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, full_at):
    draw_picture(tmp_path, None)
    before = (tmp_path / "run.png").read_bytes()
    full_at(1000)
    with pytest.raises(OSError, match="File too large"):
        draw_picture(tmp_path, distribution(40))
    assert (tmp_path / "run.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_staleness_has_an_axis_of_its_own_and_only_where_there_is_any():
    stale = {"loop/staleness": np.array([0.0, 1.0])}
    fresh = {"loop/staleness": np.array([0.0, math.nan])}
    assert "staleness" in _panels(Figure(), stale)
    assert list(_panels(Figure(), fresh)) == list(_panels(Figure(), {}))
    assert "staleness" not in _panels(Figure(), fresh)


def test_generated_tokens_are_seen_where_selectable_are_as_many():
    axes = Figure().subplots()
    tokens = dict.fromkeys(("loop/generated_tokens", "cost/step_selectable_tokens"), np.ones(3))
    _tokens_panel(axes, {"step": np.arange(3.0), **tokens})
    labelled = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [(line.get_label(), line.get_linestyle()) for line in labelled] == [
        ("selectable", "-"),
        ("generated", "--"),
    ]
