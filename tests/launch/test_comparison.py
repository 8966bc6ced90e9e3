"""Rows, intervals and verdicts from hand-made summaries."""

import io
import math

import pytest
from rich.console import Console

from launch.comparison import Estimate, comparison_json, rows, table, verdict
from launch.summary import json_ready


def summary(pass_rate, tokens=100.0):
    return {
        "pass_rate_after": pass_rate, "pass_at_8_after": 0.9, "greedy_after": None,
        "length_mean_after": 70.0, "num_steps": 3, "generated_tokens": tokens,
        "selectable_tokens": tokens, "trained_tokens": tokens / 2, "seconds": {"loop": 5.0},
    }  # fmt: skip


def arms(**rates):
    return {
        arm: {seed: summary(rate) for seed, rate in enumerate(values)}
        for arm, values in rates.items()
    }


def test_an_interval_is_students():
    """Of 1, 2, 3: mean 2, deviation 1, so 2 +- 4.303 / sqrt(3)."""
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.half_width == pytest.approx(4.303 / math.sqrt(3))
    one = Estimate.of([4.0])
    assert one.mean == 4 and math.isnan(one.half_width)
    assert Estimate.of([]).count == 0
    many = Estimate.of([0.0, 1.0] * 50)
    assert many.half_width == pytest.approx(1.96 * math.sqrt(25 / 99) / 10, rel=1e-6)


def test_differences_are_paired_by_seed():
    """Seeds differ far more than arms: unpaired, nothing could be told."""
    results = arms(base=[0.1, 0.5, 0.9], other=[0.2, 0.61, 0.99], same=[0.15, 0.45, 0.9])
    base, other, same = rows(results, 8)
    assert base.difference.count == 0 and verdict(base) == "baseline"
    assert other.difference.mean == pytest.approx(0.1) and verdict(other) == "better"
    assert verdict(same) == "no difference shown"
    worse = rows(arms(base=[0.5, 0.6], other=[0.1, 0.2]), 8)[1]
    assert verdict(worse) == "worse"


def test_a_run_that_is_missing_leaves_its_pair_out():
    results = arms(base=[0.1, 0.5], other=[0.2, 0.6])
    del results["base"][1]
    other = rows(results, 8)[1]
    assert other.difference.count == 1 and verdict(other) == "one seed: nothing shown"
    assert other.pass_rate.count == 2


def test_table_and_json_hold_every_arm():
    found = rows(arms(base=[0.1, 0.5], other=[0.2, 0.6]), 8)
    start = {"pass_rate_before": 0.3, "pass_at_8_before": 0.7, "greedy_before": 0.6}
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(found, start, 8))
    text = console.export_text()
    assert "start" in text and "base" in text and "+0.100" in text
    content = json_ready(comparison_json(found, start))
    assert [arm["arm"] for arm in content["arms"]] == ["base", "other"]
    assert content["arms"][1]["difference"]["count"] == 2
    assert content["arms"][0]["difference"]["mean"] is None
