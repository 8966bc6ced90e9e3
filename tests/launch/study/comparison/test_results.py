"""Finished runs are found, and what they show is printed and written."""

import json

from launch.study.comparison.plan import plan_runs
from launch.study.comparison.results import report, results_of
from tests.launch.study.comparison.planned import finish, new_folder


def test_finished_runs_count_and_others_do_not(make_config):
    planned = plan_runs(make_config())
    finish(planned[0])
    finish(planned[1], completed=False)
    assert planned[0].summary() is not None
    assert all(run.summary() is None for run in planned[1:])
    assert list(results_of(planned)) == ["plain"]


def test_the_first_arms_start_is_every_arms(make_config):
    planned = plan_runs(make_config(seeds=[0]))
    finish(planned[0], pass_rate_before=0.31)
    finish(planned[1], pass_rate_before=None)
    results = results_of(planned)
    assert results["plain"][0].curve.start == results["aware"][0].curve.start == 0.31


def test_the_report_is_printed_and_written(make_config, capsys):
    folder = new_folder(make_config())
    planned = plan_runs(make_config())
    for number, run in enumerate(planned):
        finish(run, pass_rate_after=0.5 + 0.01 * number)
    report(make_config(), planned, folder)
    out = capsys.readouterr().out
    assert "aware: " in out and "comparison.html" in out and "5% test is out of reach" in out
    content = json.loads((folder / "comparison.json").read_text())
    assert content["budget"] == {"axis": "generated_tokens", "amount": 5000, "shares": {}}
    assert [row["arm"] for row in content["arms"]] == ["plain", "aware"]
    assert "by_generated_tokens" in (folder / "comparison.html").read_text()
