"""Rows, verdicts, notes and the page from hand-made runs."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from launch.record.summary import json_ready
from launch.study.comparison.curves import AXES, Curve
from launch.study.comparison.findings import find
from launch.study.comparison.page import page
from launch.study.comparison.runs import FinishedRun
from launch.study.comparison.words import comparison_json, sentences, table, verdict

NUM_STEPS = 10


def make_run(pass_rate, tokens=100.0, held_out=False, **summary):
    spent = np.linspace(tokens / NUM_STEPS, tokens, NUM_STEPS)
    rising = np.linspace(0.3, pass_rate, NUM_STEPS)
    content = {
        "pass_rate_after": pass_rate, "pass_at_8_after": 0.9, "greedy_after": None,
        "length_mean_after": 70.0, "num_steps": NUM_STEPS, "generated_tokens": tokens,
        "selectable_tokens": tokens, "trained_tokens": tokens / 2, "seconds": {"loop": 5.0},
    } | summary  # fmt: skip
    measured = rising if held_out else np.append(np.full(NUM_STEPS - 1, np.nan), pass_rate)
    return FinishedRun(content, Curve(dict.fromkeys(AXES, spent), rising, measured, 0.3))


def find_in(budget=100.0, held_out=False, tokens=100.0, **rates):
    runs = {
        arm: {seed: make_run(rate, tokens, held_out) for seed, rate in enumerate(values)}
        for arm, values in rates.items()
    }
    return find("test", "generated_tokens", budget, runs, 8)


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
    assert not any("out of reach" in note or "too narrow" in note for note in found.notes)


def test_the_correction_can_take_a_finding_away():
    """Unanimous over 8 seeds is 0.0078 alone, and 0.055 as one of seven arms."""
    base = [0.5] * 8
    arms = {f"same{i}": base for i in range(6)}
    better = [0.6 + 0.001 * i for i in range(8)]
    assert verdict(find_in(base=base, better=better).rows[1]) == "higher"
    found = find_in(base=base, better=better, **arms)
    assert verdict(found.rows[1]) == "no difference shown"
    assert any("reach p = 0.0547 at best" in note for note in found.notes)


def test_few_seeds_say_that_no_test_is_in_reach():
    found = find_in(base=[0.1, 0.5, 0.9], other=[0.2, 0.61, 0.99])
    assert any("5% test is out of reach with 3 paired seeds" in note for note in found.notes)
    assert any("too narrow" in note for note in found.notes)


def test_a_run_that_is_missing_leaves_its_pair_out():
    runs = {
        "base": {0: make_run(0.1)},
        "other": {0: make_run(0.2), 1: make_run(0.6)},
        "none": {1: make_run(0.5)},
    }
    found = find("test", "generated_tokens", 100, runs, 8)
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


def test_what_it_takes_to_reach_the_baseline_is_said():
    """Both rise evenly from 0.3, to 0.5 and to 0.7: half the tokens do."""
    found = find_in(base=[0.5, 0.5], other=[0.7, 0.7], worse=[0.4, 0.4], held_out=True)
    line = next(line for line in sentences(found) if line.startswith("generated tokens"))
    assert "to reach 0.500, where the curve of base ends (at 100)" in line
    spent = float(re.search(r"other (\d+) \[", line)[1])
    assert spent == pytest.approx(55, abs=1) and "worse not reached" in line


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(100, None), (109, None), (150, "No arm reached the budget"), (60, "Not at equal budget")],
)
def test_spending_that_is_off_the_budget_is_said(budget, expected):
    notes = find_in(base=[0.5, 0.6], other=[0.5, 0.6], budget=budget).notes
    said = [note for note in notes if "budget" in note]
    assert (not said) if expected is None else said[0].startswith(expected)


@pytest.mark.parametrize("background", [False, True])
def test_evaluations_beside_training_make_seconds_no_measure_and_it_is_said(background):
    runs = {arm: {seed: make_run(0.5) for seed in range(2)} for arm in ("plain", "other")}
    notes = find("test", "steps", 100, runs, 8, background=background).notes
    assert any("evaluation.background" in note for note in notes) == background


def test_a_reweighted_objective_is_said():
    runs = {
        "base": {0: make_run(0.5, objective="uniform over prompts: ...")},
        "odd": {0: make_run(0.5, objective="reweighted: ...")},
    }
    notes = find("test", "steps", 100, runs, 8).notes
    assert any(note.startswith("odd: optimises a reweighted objective") for note in notes)
    assert not any(note.startswith("base") for note in notes)


def test_training_rewards_of_a_reweighted_arm_are_no_curve():
    """Its held-out results count all the same; evaluated on the way, it is drawn."""
    for held_out in (False, True):
        runs = {
            arm: {0: make_run(0.5, held_out=held_out, objective=objective)}
            for arm, objective in (("base", "uniform"), ("odd", "reweighted: ..."))
        }
        found = find("test", "steps", 100, runs, 8)
        assert all(("odd" in each.bands) is held_out for each in found.axes)
        assert any("left out of the curves" in note for note in found.notes) is not held_out
        assert ("not comparable" in page(found).split("How to read")[0]) is not held_out
        assert len(found.rows) == 2


def test_table_and_json_hold_every_arm():
    found = find_in(base=[0.1, 0.5], other=[0.2, 0.6])
    start = {"pass_rate_before": 0.3, "pass_at_8_before": 0.7, "greedy_before": None}
    runs = {"base": {0: make_run(0.5, **start)}, "other": {0: make_run(0.6)}}
    console = Console(width=170, record=True, file=io.StringIO())
    console.print(table(find("test", "steps", 100, runs, 8)))
    console.print(table(found))
    text = console.export_text()
    assert "start" in text and "0.700" in text and "+0.100" in text and "nan" not in text
    content = json_ready(comparison_json(found))
    assert [arm["arm"] for arm in content["arms"]] == ["base", "other"]
    assert content["arms"][1]["paired"]["difference"]["count"] == 2
    assert content["arms"][0]["paired"] is None
    assert [each["axis"] for each in content["axes"]] == list(AXES)


class Balanced(HTMLParser):
    """Fails where tags do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_holds_what_was_found():
    base = [0.5 + 0.01 * i for i in range(8)]
    found = find_in(base=base, other=[rate + 0.1 for rate in base], odd=[0.2] * 8, held_out=True)
    text = page(found)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not [tag for tag, _ in parser.seen if tag in ("script", "link", "img", "iframe")]
    links = [attrs.get("xlink:href") or attrs.get("href") for _, attrs in parser.seen]
    assert all(link.startswith("#") for link in links if link)
    for row in found.rows[1:]:
        assert row.sentence in text.replace("&#x27;", "'")
    assert text.count("By ") == len(AXES) and "nan" not in re.sub(r"<svg.*</svg>", "", text)
    assert page(found) == text


def test_names_cannot_bring_markup_into_the_page():
    runs = {"base": {0: make_run(0.5)}, "other": {0: make_run(0.5)}}
    text = page(find("<script>x</script>", "steps", 100, runs, 8))
    assert "<script" not in text and "&lt;script" in text
