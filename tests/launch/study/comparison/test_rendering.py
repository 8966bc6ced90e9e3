"""The table, the sentences and the JSON hold what was found."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
from rich.console import Console

from conf.programs import BudgetConfig
from launch.record.json_file import json_ready
from launch.study.comparison.curves import AXES
from launch.study.comparison.findings import find
from launch.study.comparison.reach import CostRatio, Evaluated, Reach, reach
from launch.study.comparison.rendering import comparison_json, reach_text, sentences, table
from tests.launch.study.comparison.made_runs import find_in, make_run


def test_what_it_takes_to_reach_the_baseline_is_said():
    """All rise evenly from 0.3: to 0.5, to 0.7 and to 0.4, from the first step on."""
    found = find_in(base=[0.5, 0.5], other=[0.7, 0.7], worse=[0.4, 0.4], held_out=True)
    line = next(line for line in sentences(found) if line.startswith("generated tokens"))
    assert "to reach 0.500, where the curve of base ends (at 100)" in line
    told = re.search(r"other (\d+) \[(\d+), (\d+)\] \((0.\d\d) \[.*\] times\);", line)
    assert [float(each) for each in told.groups()] == [55, 55, 55, 0.55]
    rest = line.split("; ")[1]
    assert rest.startswith("worse not reached (to 0.400, the best that both reach, 1.82 [")
    assert rest.endswith("times what base took).")


def test_no_saving_is_said_of_an_arm_that_does_not_show_one():
    """One seed, and seeds that disagree."""
    for base, other in (([0.5], [0.7]), ([0.5, 0.7], [0.7, 0.6])):
        found = find_in(base=base, other=other, held_out=True)
        line = next(line for line in sentences(found) if line.startswith("generated tokens"))
        assert "no saving shown" in line and "nan" not in line


def test_why_a_saving_is_not_shown_is_said_where_the_ratio_alone_would_show_one():
    """It is cheaper as far as both get, but may not get as far as the baseline."""
    seen = Reach(70.0, 63.0, math.inf, 0.4, CostRatio(0.85, 0.76, 0.99), saves=False)
    assert reach_text("generated_tokens", seen, "base") == (
        "70 [63, never] (0.85 [0.76, 0.99] times, no saving shown, as it may end below)"
    )
    wide = replace(seen, cost=CostRatio(0.85, 0.76, 1.2))
    assert reach_text("generated_tokens", wide, "base").endswith("times, no saving shown)")


def test_an_arm_of_which_no_ratio_is_ruled_out_is_not_said_to_cost_infinitely_more():
    """As where the baseline does not learn: nothing it paid for is there to be reached."""
    unknown = Reach(math.inf, 0.0, math.inf, 0.4, CostRatio(math.inf, 0.0, math.inf), saves=False)
    assert reach_text("generated_tokens", unknown, "base") == (
        "not reached (no ratio to what base took is ruled out)"
    )


def test_too_few_evaluations_are_said_in_place_of_what_they_would_show():
    found = find_in(base=[0.5, 0.5], other=[0.7, 0.7])
    said = sentences(found)[-1]
    assert said.startswith("What it takes to reach where base ends is not said")
    assert "needs 2 or more after the start, and some have 1; set evaluation.every" in said
    assert not any("to reach 0." in line for line in sentences(found))


def test_what_is_said_of_curves_can_be_computed_again_from_the_json():
    found = find_in(base=[0.5, 0.52], other=[0.7, 0.69], held_out=True)
    content = json.loads(json.dumps(json_ready(comparison_json(found))))
    again = {
        arm: [
            Evaluated(
                np.array([0.0, *run["spent"]["generated_tokens"]]),
                np.array([run["start"], *run["pass_rate"]]),
            )
            for run in runs.values()
        ]
        for arm, runs in content["evaluations"].items()
    }
    assert reach(again["other"], again["base"]) == found.axes[0].reach["other"]


def test_table_and_json_hold_every_arm():
    found = find_in(base=[0.1, 0.5], other=[0.2, 0.6])
    start = {"pass_rate_before": 0.3, "pass_at_8_before": 0.7, "greedy_before": None}
    runs = {"base": {0: make_run(0.5, **start)}, "other": {0: make_run(0.6)}}
    console = Console(width=170, record=True, file=io.StringIO())
    console.print(table(find("test", BudgetConfig(axis="steps", amount=100), runs, 8)))
    console.print(table(found))
    text = console.export_text()
    assert "+- is half of a 95% interval, Student's t over seeds" in text
    assert "start" in text and "0.700" in text and "+0.100" in text and "nan" not in text
    content = json_ready(comparison_json(found))
    assert [arm["arm"] for arm in content["arms"]] == ["base", "other"]
    assert content["arms"][1]["paired"]["difference"]["count"] == 2
    assert content["arms"][0]["paired"] is None
    assert [each["axis"] for each in content["axes"]] == list(AXES)


def test_amounts_of_less_than_one_are_not_zero():
    """A comparison of a few seconds: its end once read "at 0"."""
    found = find_in(tokens=0.4, base=[0.5, 0.5], other=[0.7, 0.7], held_out=True)
    line = next(line for line in sentences(found) if line.startswith("seconds"))
    assert "(at 0.4): other 0.22 [" in line


def test_an_axis_on_which_nothing_was_spent_compares_nothing():
    found = find_in(tokens=0.0, base=[0.5, 0.5], other=[0.7, 0.7], held_out=True)
    assert found.axes == [] and not any("to reach" in line for line in sentences(found))
