"""The table, the sentences and the JSON hold what was found."""

import io
import re

import pytest
from rich.console import Console

from launch.record.summary import json_ready
from launch.study.comparison.curves import AXES
from launch.study.comparison.findings import find
from launch.study.comparison.words import comparison_json, sentences, table
from tests.launch.study.comparison.made_runs import find_in, make_run


def test_what_it_takes_to_reach_the_baseline_is_said():
    """Both rise evenly from 0.3, to 0.5 and to 0.7: half the tokens do."""
    found = find_in(base=[0.5, 0.5], other=[0.7, 0.7], worse=[0.4, 0.4], held_out=True)
    line = next(line for line in sentences(found) if line.startswith("generated tokens"))
    assert "to reach 0.500, where the curve of base ends (at 100)" in line
    spent = float(re.search(r"other (\d+) \[", line)[1])
    assert spent == pytest.approx(55, abs=1) and "worse not reached" in line


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
