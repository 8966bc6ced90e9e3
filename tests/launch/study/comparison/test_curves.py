"""Curves from metrics, their smoothing, bands over seeds, and what it takes to reach a level."""

import math

import numpy as np
import pytest

from launch.record.run_folder import metric_columns
from launch.study.comparison.curves import (
    AXES,
    Curve,
    compare_along,
    curve_of,
    evaluated,
    first_reach,
    local_linear,
    on_grid,
)

NAN = math.nan


def make_curve(training, per_step=100.0, held_out=None, start=NAN):
    count = len(training)
    spent = per_step * np.arange(1.0, count + 1)
    return Curve(
        spent=dict.fromkeys(AXES, spent),
        training=np.asarray(training, dtype=float),
        held_out=np.full(count, NAN) if held_out is None else np.asarray(held_out, dtype=float),
        start=start,
    )


def lines(rate, count=40, per_step=100.0, base=0.2, seeds=(0, 1, 2)):
    """Runs whose reward grows by `rate` per token; seeds lie 0.01 apart."""
    before = per_step * np.arange(count)
    return {
        seed: make_curve(base + 0.01 * seed + rate * before, per_step=per_step) for seed in seeds
    }


def test_a_curve_has_its_axes():
    rows = [
        {
            "step": step, "cost/generated_tokens": 100 * step, "cost/trained_tokens": 60 * step,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 2.0, "loop/publish_seconds": None,
            "cost/reward_mean_uniform": 0.5, **({"evaluation/pass_rate": 0.4} if step == 2 else {}),
        }
        for step in (1, 2, 3)
    ]  # fmt: skip
    curve = curve_of(metric_columns(rows), {"pass_rate_after": 0.6}, start=0.3)
    assert curve.spent["generated_tokens"].tolist() == [100, 200, 300]
    assert curve.spent["trained_tokens"].tolist() == [60, 120, 180]
    assert curve.spent["seconds"].tolist() == [3, 6, 9]
    assert curve.spent["steps"].tolist() == [1, 2, 3]
    assert np.array_equal(curve.held_out, [NAN, 0.4, 0.6], equal_nan=True)
    assert curve.num_evaluations == 2 and evaluated([curve])
    assert not evaluated([curve, make_curve([0.1], held_out=[0.5])])


def test_evaluations_are_joined_by_straight_lines_from_the_start():
    curve = make_curve([0.0] * 4, held_out=[NAN, 0.4, NAN, 0.8], start=0.2)
    found = on_grid(curve, "steps", np.array([0.0, 100, 200, 300, 400, 500]), True, 1.0)
    assert found[:5] == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.8]) and math.isnan(found[5])
    unknown = on_grid(make_curve([0.0] * 2, held_out=[0.1, 0.2]), "steps", np.array([0.0]), True, 1)
    assert np.isnan(unknown).all()


def test_a_step_without_a_reward_is_left_out():
    curve = make_curve([0.1, NAN, 0.3])
    found = on_grid(curve, "steps", np.array([0.0, 100.0, 200.0]), False, 50.0)
    assert found == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("width", [1e-3, 0.5, 100.0])
def test_a_straight_line_is_not_bent_at_its_ends(width):
    x = np.sort(np.random.default_rng(0).uniform(0, 10, 30))
    grid = x if width < 0.1 else np.linspace(0, 10, 7)
    assert local_linear(x, 3 - 0.2 * x, grid, width) == pytest.approx(3 - 0.2 * grid, abs=1e-6)


def test_noise_is_smoothed_away():
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 200)
    found = local_linear(x, x + rng.normal(scale=0.2, size=200), x, 0.2)
    assert np.abs(found - x).mean() < 0.05
    assert local_linear(np.array([0.5]), np.array([0.7]), x, 0.2) == pytest.approx(0.7)


def test_a_level_is_reached_between_points_of_the_grid():
    grid = np.array([0.0, 1.0, 2.0, 3.0])
    assert first_reach(grid, np.array([0.0, 0.2, 0.6, 0.4]), 0.3) == pytest.approx(1.25)
    assert first_reach(grid, np.array([0.5, 0.2, 0.6, 0.4]), 0.3) == 0
    assert first_reach(grid, np.array([NAN, 0.4, 0.6, NAN]), 0.3) == 1
    assert math.isinf(first_reach(grid, np.array([0.0, 0.1, 0.2, NAN]), 0.3))


def test_half_the_tokens_reach_the_baselines_level():
    """Twice the slope needs half; half the slope never gets there within the same budget."""
    curves = {"base": lines(1e-4), "fast": lines(2e-4), "slow": lines(0.5e-4)}
    found = compare_along("generated_tokens", curves, False)
    assert found.level == pytest.approx(0.21 + 1e-4 * 4000, abs=1e-6)
    assert found.reach["base"].spent == pytest.approx(4000)
    fast, slow = found.reach["fast"], found.reach["slow"]
    assert fast.spent == pytest.approx(2000) and fast.share == 1
    # Seeds are paired: all arms move up and down together, so the crossing does not.
    assert fast.low == pytest.approx(2000) and fast.high == pytest.approx(2000)
    assert math.isinf(slow.spent) and slow.share == 0 and math.isinf(slow.high)


def test_bands_hold_the_mean_and_are_the_bootstraps_of_the_seeds():
    found = compare_along("steps", {"base": lines(1e-4)}, False)
    band = found.bands["base"]
    assert (band.low <= band.mean).all() and (band.mean <= band.high).all()
    # Resampled means of 0.20, 0.21, 0.22 reach from three times the lowest to three times the top.
    assert (band.high - band.low) == pytest.approx(np.full(len(band.mean), 0.02), abs=1e-6)
    again = compare_along("steps", {"base": lines(1e-4)}, False)
    assert np.array_equal(again.bands["base"].low, band.low)
    one = compare_along("steps", {"base": lines(1e-4, seeds=(5,))}, False).bands["base"]
    assert one.low == pytest.approx(one.high)


def test_an_arm_ends_where_its_first_run_does():
    curves = {"base": lines(1e-4), "short": lines(1e-4, count=20)}
    curves["short"][2] = make_curve(np.full(30, 0.5))
    band = compare_along("steps", curves, False).bands["short"]
    known = np.isfinite(band.mean)
    assert band.spent[known].max() <= 2000.001 < band.spent[-1] == 4000
    assert np.isnan(band.low[~known]).all()


def test_only_seeds_that_all_arms_have_are_used():
    curves = {"base": lines(1e-4, seeds=(0, 1)), "other": lines(1e-4, seeds=(1, 2))}
    found = compare_along("steps", curves, False)
    assert found.bands["base"].mean == pytest.approx(found.bands["other"].mean)
    alone = {"base": lines(1e-4, seeds=(0,)), "other": lines(1e-4, seeds=(1,))}
    assert compare_along("steps", alone, False) is None
