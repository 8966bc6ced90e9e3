"""Rows, their tests and verdicts, from made-up runs."""

import pytest

from conf.programs import BudgetConfig
from launch.study.comparison.findings import find
from launch.study.comparison.page import page
from launch.study.comparison.rendering import sentences, verdict
from tests.launch.study.comparison.made_runs import find_in, make_run


def test_differences_are_paired_by_seed():
    """Seeds differ far more than arms: unpaired, nothing could be told."""
    found = find_in(base=[0.1, 0.5, 0.9], other=[0.2, 0.61, 0.99], same=[0.15, 0.45, 0.9])
    base, other, same = found.rows
    assert base.paired is None and verdict(base) == "baseline"
    assert other.paired.difference.mean == pytest.approx(0.1)
    assert verdict(other) == "higher, untested"
    assert verdict(same) == "no difference shown"
    assert verdict(find_in(base=[0.5, 0.6], other=[0.1, 0.2]).rows[1]) == "lower, untested"


def test_eight_seeds_are_tested_and_corrected_over_arms():
    base = [0.5 + 0.01 * i for i in range(8)]
    better = [rate + 0.1 + 0.001 * i for i, rate in enumerate(base)]
    noise = [rate + 0.01 * (-1) ** i for i, rate in enumerate(base)]
    found = find_in(base=base, better=better, noise=noise)
    _, first, second = found.rows
    assert first.paired.sign_flip_p == 2**-7 and first.paired.corrected_p == 2 * 2**-7
    assert verdict(first) == "higher" and verdict(second) == "no difference shown"
    assert first.sentence.startswith("higher held-out pass@1 than base (")
    assert "no difference shown to base" in sentences(found)[1]
    assert any("corrected for all 2 arms together (Holm)" in note for note in found.notes)
    assert not any("out of reach" in note for note in found.notes)


def test_the_correction_can_take_a_finding_away():
    """Unanimous over 8 seeds is 0.0078 alone, and 0.055 as one of seven arms."""
    base = [0.5] * 8
    arms = {f"same{i}": base for i in range(6)}
    better = [0.6 + 0.001 * i for i in range(8)]
    assert verdict(find_in(base=base, better=better).rows[1]) == "higher"
    found = find_in(base=base, better=better, **arms)
    assert verdict(found.rows[1]) == "no difference shown"
    assert any("reach p = 0.0547 at best" in note for note in found.notes)


def test_a_run_that_is_missing_leaves_its_pair_out():
    runs = {
        "base": {0: make_run(0.1)},
        "other": {0: make_run(0.2), 1: make_run(0.6)},
        "none": {1: make_run(0.5)},
    }
    found = find("test", BudgetConfig(amount=100), runs, 8)
    assert found.rows[1].paired.difference.count == 1 and found.rows[1].pass_rate.count == 2
    assert verdict(found.rows[1]) == verdict(found.rows[2]) == "nothing shown"
    assert found.rows[2].sentence == "nothing shown: no paired seeds"
    assert not found.axes
    assert "none has no finished run of seed 0." in found.notes
    assert "No shared seed" in page(found)


def test_curves_are_of_evaluations_where_all_runs_have_them():
    assert not find_in(base=[0.5], other=[0.6]).held_out
    found = find_in(base=[0.5], other=[0.6], held_out=True)
    assert found.held_out and any("held-out pass@1, evaluated" in note for note in found.notes)


def test_training_rewards_of_a_reweighted_arm_are_no_curve():
    """Its held-out results count all the same; evaluated on the way, it is drawn."""
    for held_out in (False, True):
        runs = {
            arm: {0: make_run(0.5, held_out=held_out, objective=objective)}
            for arm, objective in (("base", "uniform"), ("odd", "reweighted: ..."))
        }
        found = find("test", BudgetConfig(axis="steps", amount=100), runs, 8)
        assert all(("odd" in each.bands) is held_out for each in found.axes)
        assert any("left out of the curves" in note for note in found.notes) is not held_out
        assert len(found.rows) == 2
