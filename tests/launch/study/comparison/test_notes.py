"""What a reader must know is said, and nothing where there is nothing to say."""

import pytest

from conf.programs import BudgetConfig
from launch.study.comparison.findings import find
from launch.study.comparison.plan import plan_runs
from launch.study.comparison.results import report
from tests.launch.study.comparison.made_runs import find_in, make_run
from tests.launch.study.comparison.planned import finish, new_folder


def test_few_seeds_say_that_no_test_is_in_reach():
    found = find_in(base=[0.1, 0.5, 0.9], other=[0.2, 0.61, 0.99])
    assert any("5% test is out of reach with 3 paired seeds" in note for note in found.notes)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(100, None), (109, None), (150, "No arm reached the budget"), (60, "Not at equal budget")],
)
def test_spending_that_is_off_the_budget_is_said(budget, expected):
    notes = find_in(base=[0.5, 0.6], other=[0.5, 0.6], budget=budget).notes
    said = [note for note in notes if "budget" in note]
    assert (not said) if expected is None else said[0].startswith(expected)


def test_an_arm_with_a_share_is_held_against_its_own():
    rates = {"base": [0.5, 0.6], "third": [0.5, 0.6]}
    notes = find_in(**rates, budget=100, shares={"third": 1 / 3}).notes
    shares, spent = [note for note in notes if "budget" in note]
    assert shares == "Not at equal budget, as asked for: shares of it are third 0.333."
    assert "of its own share of 100 generated_tokens these arms spent on average third" in spent
    notes = find_in(**rates, budget=100, shares={"third": 0.97}).notes
    assert len([note for note in notes if "budget" in note]) == 1


@pytest.mark.parametrize("background", [False, True])
def test_evaluations_beside_training_make_seconds_no_measure_and_it_is_said(background):
    runs = {arm: {seed: make_run(0.5) for seed in range(2)} for arm in ("plain", "other")}
    notes = find(
        "test", BudgetConfig(axis="steps", amount=100), runs, 8, background=background
    ).notes
    assert any("evaluation.background" in note for note in notes) == background


@pytest.mark.parametrize(("every", "staleness"), [(0, 1), (5, 0), (5, 1)])
def test_what_engines_do_during_evaluations_is_in_no_second_and_it_is_said(
    make_config, capsys, every, staleness
):
    base = ["experiment=quickstart", f"evaluation.every={every}", f"loop.max_staleness={staleness}"]
    config = make_config(base=base, seeds=[0])
    folder, planned = new_folder(config), plan_runs(config)
    for run in planned:
        finish(run)
    report(config, planned, folder)
    assert ("seconds leave that out" in capsys.readouterr().out) is bool(every and staleness)


def test_a_reweighted_objective_is_said():
    runs = {
        "base": {0: make_run(0.5, objective="uniform over prompts: ...")},
        "odd": {0: make_run(0.5, objective="reweighted: ...")},
    }
    notes = find("test", BudgetConfig(axis="steps", amount=100), runs, 8).notes
    assert any(note.startswith("odd: optimises a reweighted objective") for note in notes)
    assert not any(note.startswith("base") for note in notes)


@pytest.mark.parametrize("held_out", [False, True])
def test_how_costs_are_compared_is_said_where_they_are(held_out):
    notes = find_in(base=[0.5, 0.6], other=[0.5, 0.6], held_out=held_out).notes
    assert any("an arm that ends below the baseline included" in note for note in notes) is held_out
    assert any("Student's t over the 2 shared seeds" in note for note in notes)
