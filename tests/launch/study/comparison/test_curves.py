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
    assert curve.spent.keys() == set(AXES) - {"compute_flops", "accelerator_seconds"}
    assert np.array_equal(curve.held_out, [NAN, 0.4, 0.6], equal_nan=True)
    assert curve.num_evaluations == 2 and evaluated([curve])
    assert not evaluated([curve, make_curve([0.1], held_out=[0.5])])


def test_an_axis_counts_where_every_run_knows_it():
    rows = [
        {
            "step": step, "cost/generated_tokens": 1, "cost/trained_tokens": 1,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 2.0, "loop/publish_seconds": 0.5,
            "cost/reward_mean_uniform": 0.5, "cost/compute_flops": 1e9 * step,
            "cost/engine_seconds": 2.0 * step, "cost/learner_seconds": 0.5 * step,
        }
        for step in (1, 2)
    ]  # fmt: skip
    known = curve_of(metric_columns(rows), {})
    assert known.spent["compute_flops"].tolist() == [1e9, 2e9]
    assert known.spent["accelerator_seconds"].tolist() == [2.5, 5.0]
    assert compare_along("compute_flops", {"base": {0: known}}, False) is not None
    for row in rows:
        del row["cost/compute_flops"]
    unknown = curve_of(metric_columns(rows), {})
    assert compare_along("compute_flops", {"a": {0: known}, "b": {0: unknown}}, False) is None


def test_an_evaluation_in_the_background_is_placed_at_what_its_version_had_spent():
    """Begun every 10 steps and found ready 4 to 10 steps later."""
    found_at = {14: 10, 30: 20, 36: 30}
    rows = [
        {
            "step": step, "cost/generated_tokens": 1000 * step, "cost/trained_tokens": 500 * step,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 1.0, "loop/publish_seconds": 0.0,
            "cost/reward_mean_uniform": 0.5,
        }
        | (
            {"evaluation/pass_rate": found_at[step] / 100, "evaluation/version": found_at[step]}
            if step in found_at else {}
        )
        for step in range(1, 41)
    ]  # fmt: skip
    curve = curve_of(metric_columns(rows), {"pass_rate_after": 0.4})
    at = np.flatnonzero(np.isfinite(curve.held_out))
    assert curve.held_out[at].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert curve.spent["generated_tokens"][at].tolist() == [10_000, 20_000, 30_000, 40_000]
    assert curve.spent["seconds"][at].tolist() == [20, 40, 60, 80]


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


def test_a_band_is_the_interval_of_students_t_over_seeds():
    """Seeds at 0.20, 0.21 and 0.22: the quantile with two degrees of freedom is 4.303."""
    band = compare_along("steps", {"base": lines(1e-4)}, False).bands["base"]
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert band.mean - band.low == pytest.approx(np.full(len(band.mean), half), abs=1e-6)
    assert band.high - band.mean == pytest.approx(np.full(len(band.mean), half), abs=1e-6)
    one = compare_along("steps", {"base": lines(1e-4, seeds=(5,))}, False).bands["base"]
    assert np.isfinite(one.mean).all() and np.isnan([one.low, one.high]).all()


def test_training_rewards_say_nothing_of_what_it_takes_to_reach_a_level():
    """However they lie: their draws, noise and smoothing differ between arms."""
    found = compare_along("steps", {"base": lines(1e-4), "better": lines(2e-4)}, False)
    assert found.reach == {} and found.level == pytest.approx(0.21 + 1e-4 * 4000, abs=1e-6)


def test_all_that_runs_have_spent_counts_up_to_where_the_first_of_an_arm_ends():
    """Half the cost of a step along the tokens, the same along the steps."""
    measured = [NAN, 0.3, NAN, 0.4]
    curves = {
        arm: {
            seed: Curve(
                {axis: per_step[axis] * np.arange(1.0, 5) for axis in AXES},
                np.full(4, 0.5), np.array(measured) + 0.01 * seed, 0.2 + 0.01 * seed,
            )
            for seed in (0, 1)
        }
        for arm, per_step in (
            ("base", dict.fromkeys(AXES, 1.0) | {"generated_tokens": 200.0}),
            ("cheap", dict.fromkeys(AXES, 1.0) | {"generated_tokens": 100.0}),
        )
    }  # fmt: skip
    tokens, steps = (compare_along(axis, curves, True) for axis in ("generated_tokens", "steps"))
    assert tokens.end == 800 and tokens.level == steps.level == pytest.approx(0.405)
    assert tokens.reach["cheap"].spent == pytest.approx(400)
    assert tokens.reach["cheap"].cost.ratio == pytest.approx(0.5)
    assert steps.reach["cheap"].spent == pytest.approx(4)
    assert steps.reach["cheap"].cost.ratio == pytest.approx(1)


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
