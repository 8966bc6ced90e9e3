"""What it takes to reach a target: medians, paired ratios and a test."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from conf.programs import BudgetConfig
from launch.record.run_folder import metric_columns
from launch.study.comparison.curves import AXES, HELD_OUT, NEEDED, Curve, curve_of
from launch.study.comparison.findings import find
from launch.study.comparison.page import page
from launch.study.comparison.rendering import comparison_json, sentences, table
from launch.study.comparison.speedrun import speed_sentences, speeds
from tests.launch.study.comparison.made_runs import make_run


def run(spent):
    none = np.full(2, np.nan)
    reached = None if spent is None else dict.fromkeys(AXES, spent)
    return Curve(dict.fromkeys(AXES, np.array([1.0, 2.0])), none, none, 0.3, reached)


def arms(**spent):
    return {arm: dict(enumerate(map(run, values))) for arm, values in spent.items()}


def test_medians_and_paired_ratios_of_what_was_spent():
    base = [100.0, 110, 90, 105, 95, 100, 120, 80]
    found = speeds(arms(base=base, half=[x * 0.5 for x in base], same=base))
    assert {speed.axis for speed in found} == set(AXES)
    first, half, same = found[:3]
    assert first.median == 100 and math.isnan(first.ratio) and first.p is None
    assert half.median == 50 and half.ratio == pytest.approx(0.5)
    # Of 2^8 sign flips two are as far; two arms.
    assert half.p == pytest.approx(2 * 2 / 256) and same.ratio == 1 and same.p == 1
    line = speed_sentences(found, 0.6)[0]
    assert line.startswith("generated tokens to held-out pass@1 0.6, medians (")
    assert "ratios): base 100; half 50 (" in line
    assert "(0.50 times, p = 0.0156)" in line


def test_the_ratio_is_the_mean_that_is_tested():
    """Three seeds of eight far ahead: the median says nothing of them, the test does."""
    base = [1.0] * 8
    _, arm = speeds(arms(base=base, arm=[0.25] * 3 + [1.0] * 5))[:2]
    assert arm.ratio == pytest.approx(0.25 ** (3 / 8))


def test_who_does_not_get_there_is_infinitely_late_and_not_tested():
    found = speeds(arms(base=[1.0, 2, 3], slow=[1.0, 5, None], never=[None, None, None]))
    _, slow, never = found[:3]
    assert (slow.reached, slow.count, slow.median) == (2, 3, 5) and math.isnan(slow.ratio)
    assert math.isinf(never.median) and never.p is None
    line = speed_sentences(found, 0.6)[-1]
    assert "slow 5, by 2 of 3 seeds" in line and "never not reached, by 0 of 3 seeds" in line


def race(**spent):
    """A comparison with a target of .5; a run that has nothing spent did not get there."""
    runs = {
        arm: {
            seed: replace(run, curve=replace(run.curve, reached=reached))
            for seed, each in enumerate(values)
            for run, reached in [
                (make_run(0.51, held_out=True), each and dict.fromkeys(AXES, each))
            ]
        }
        for arm, values in spent.items()
    }
    return find("race", BudgetConfig(axis="compute_flops", amount=1000), runs, 8, target=0.5)


def test_runs_that_a_target_ended_are_compared_by_what_they_spent():
    """Their ends are alike by that, and their budget has not ended them."""
    found = race(base=[80.0, 90, 70], half=[40.0, 45, 35])
    assert sentences(found) == speed_sentences(speeds(found.curves), 0.5)
    assert not any("No arm reached the budget" in note for note in found.notes)
    assert not any("Not at equal budget" in note for note in found.notes)
    assert any("reached 0.5 (evaluation.target)" in note for note in found.notes)
    content = comparison_json(found)
    assert content["target"] == 0.5 and content["speedrun"][1]["ratio"] == pytest.approx(0.5)
    console = Console(width=170, record=True, file=io.StringIO())
    console.print(table(found))
    shown = page(found).split('id="data"')[0]
    for text in (console.export_text(), shown):
        assert "no difference shown" not in text and "nan" not in text
    assert "What decides is what it took to get to held-out pass@1 0.5" in shown
    assert "FLOPs to held-out pass@1 0.5, medians" in shown and "half 40 (0.50 times" in shown
    assert 'id="differences"' not in shown and "#differences" not in shown


def test_a_target_that_no_run_reached_ended_none():
    found = race(base=[None, None, None], half=[None, None, None])
    assert found.target is None and "speedrun" not in comparison_json(found)
    assert sentences(found)[0].startswith("half: no difference shown to base")
    assert any(note.startswith("No run reached 0.5 (evaluation.target)") for note in found.notes)
    assert any(note.startswith("No arm reached the budget") for note in found.notes)


def test_a_run_arrives_between_evaluations_before_the_first_that_reaches_the_target():
    rates = {2: 0.4, 3: 0.6, 4: 0.5}
    rows = [
        {
            "step": step, "cost/generated_tokens": 100 * step, "cost/trained_tokens": 60 * step,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 2.0, "loop/publish_seconds": 0.0,
            "cost/reward_mean_uniform": 0.5,
            **({"evaluation/pass_rate": rates[step]} if step in rates else {}),
        }
        for step in (1, 2, 3, 4)
    ]  # fmt: skip
    columns = metric_columns(rows)
    reached = curve_of(columns, {"pass_rate_after": 0.9}, target=0.55).reached
    assert reached == pytest.approx(
        {"generated_tokens": 275, "trained_tokens": 165, "seconds": 8.25, "steps": 2.75}
    )
    # From the start, where it is known.
    begun = curve_of(columns, {}, start=0.2, target=0.3).reached
    assert begun["generated_tokens"] == pytest.approx(100) and begun["steps"] == pytest.approx(1)
    # The evaluation after the run is none on the way.
    assert curve_of(columns, {"pass_rate_after": 0.9}, target=0.7).reached is None
    assert curve_of(columns, {"pass_rate_after": 0.9}).reached is None


def noisy_run(rng, num_looks, noise=0.01):
    """A learning curve that flattens, evaluated at even distances of one budget."""
    steps = np.arange(1.0, num_looks + 1)
    tokens = 1.6 * steps / num_looks
    speed = np.exp(rng.normal(0, 0.05))
    rates = 0.4 + 0.3 * -np.expm1(-3 * speed * tokens) + rng.normal(0, noise, num_looks)
    columns = dict.fromkeys(NEEDED, tokens) | {"step": steps, HELD_OUT: rates}
    return curve_of(columns, {}, start=0.4, target=0.6)


def test_who_is_looked_at_more_often_is_not_ahead():
    """Steps that are half as dear bring two looks for one; the run's own is the same."""
    rng, logs, rejected, trials = np.random.default_rng(0), [], 0, 200
    for _ in range(trials):
        looked = {"base": 16, "often": 32}
        curves = {a: {s: noisy_run(rng, n) for s in range(8)} for a, n in looked.items()}
        often = next(s for s in speeds(curves) if (s.arm, s.axis) == ("often", "generated_tokens"))
        logs.append(math.log(often.ratio))
        rejected += often.p <= 0.05
    assert abs(np.mean(logs)) < 0.03
    assert rejected / trials < 0.1
