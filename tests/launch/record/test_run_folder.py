"""The readers of a run folder: steps in order, gaps filled with NaN, damage named.

What is refused, and how, is in `report/test_report.py`, whose page reads every file.
"""

import json
import math

import numpy as np
import pytest

from launch.cli.refusals import UserError
from launch.record.run_folder import (
    CONFIG,
    METRICS,
    SUMMARY,
    at_versions,
    metric_columns,
    read_config,
    read_steps,
    read_summary,
)


@pytest.fixture
def folder(tmp_path):
    records = [{"step": 2, "a": None, "b": 6.0}, {"step": 1, "b": 5.0}, {"step": 3, "a": 1.0}]
    (tmp_path / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_steps_are_put_in_order_and_gaps_are_filled(folder):
    columns = metric_columns(read_steps(folder))
    assert columns["step"].tolist() == [1, 2, 3]
    assert np.isnan(columns["a"][:2]).all()
    assert columns["b"][:2].tolist() == [5.0, 6.0]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("thinned/seed-0/config.yaml", "it is a comparison's, whose page is comparison.html"),
        ("evaluation.json", "it is an evaluation's, whose results are in evaluation.json"),
        ("plan.json", "it is a simulation's, whose results are in plan.json"),
        ("theory.json", "it is that of launch.theory, whose results are in theory.json"),
    ],
)
def test_a_folder_of_another_program_is_told_with_what_to_read(tmp_path, made, said):
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).write_text("{}")
    with pytest.raises(UserError, match=f"it has no metrics.jsonl; {said}: name .*run"):
        read_steps(tmp_path)
    with pytest.raises(UserError, match=f"it has no summary.json; {said}: name .*run"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"step": 2}', "line 4 of metrics.jsonl repeats step 2"),
        ('{"step": "4"}', "step in line 4 of metrics.jsonl is not a whole number"),
        ('{"step": true}', "step in line 4 of metrics.jsonl is not a whole number"),
        ('{"step": 4, "a": "x"}', "a in line 4 of metrics.jsonl is not a number"),
        ('{"step": 4, "a": true}', "a in line 4 of metrics.jsonl is not a number"),
        ('{"a": 1}', "line 4 of metrics.jsonl has no step"),
        ("[1]", "line 4 of metrics.jsonl has no step"),
        ("null", "line 4 of metrics.jsonl has no step"),
        ('{"step": 4, "a"', "line 4 of metrics.jsonl is not JSON; if it was cut off, remove it"),
        ("[" * 100_000, "line 4 of metrics.jsonl is not JSON"),
    ],
)
def test_a_damaged_line_is_named(folder, line, said):
    with (folder / METRICS).open("a") as file:
        file.write(line + "\n")
    for goes_on in (False, True):
        with pytest.raises(UserError, match=said):
            read_steps(folder, goes_on=goes_on)


def test_a_last_line_cut_short_is_passed_over_where_the_run_may_go_on(folder):
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 4, "a"')
    assert len(read_steps(folder, goes_on=True)) == 3
    with pytest.raises(UserError, match=r"line 4 of metrics\.jsonl is not JSON"):
        read_steps(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "text", "3", "a: [", "a: !!python/object/apply:os.getcwd []", "a: ${b",
     "a: !foo 1", "- a\n- b", "\t", "[" * 3000, "a: b: c"],
)  # fmt: skip
def test_a_configuration_of_something_else_is_refused(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml") as refusal:
        read_config(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_configuration_of_another_program_is_refused_where_keys_are_needed(tmp_path):
    (tmp_path / CONFIG).write_text("name: x\nloop: 3\n")
    assert read_config(tmp_path, {"name": str}) == {"name": "x", "loop": 3}
    with pytest.raises(UserError, match=r"config\.yaml must have loop as launch\.train writes it"):
        read_config(tmp_path, {"loop": dict})


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"seconds": "3"}', "[" * 100_000])
def test_results_of_something_else_are_refused(tmp_path, text):
    (tmp_path / SUMMARY).write_text(text)
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(tmp_path, ["seconds"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"in_every": ["b"]}, "line 3 of metrics.jsonl has no b; it is of another version"),
        ({"in_some": ["c"]}, "no line of metrics.jsonl has c; it is of another version"),
        ({"at_least": 4}, "metrics.jsonl has 3 steps, and at least 4 steps are needed"),
    ],
)
def test_what_a_reader_needs_must_be_there(folder, asked, said):
    assert read_steps(folder, in_some=["a", "b"], at_least=2)
    with pytest.raises(UserError, match=said):
        read_steps(folder, **asked)


def test_a_run_before_its_first_step_has_no_steps_where_that_will_do(tmp_path):
    (tmp_path / METRICS).write_text("")
    assert read_steps(tmp_path, at_least=0) == []
    assert list(metric_columns([])) == ["step"]


def late(step, version, rate):
    return {"step": step, "time": 9.0, "evaluation/version": version, "evaluation/pass_rate": rate}


@pytest.mark.parametrize(
    "of_last_step", [{}, {"evaluation/version": 1, "evaluation/pass_rate": 0.3}]
)
def test_an_evaluation_that_ended_after_the_last_step_belongs_to_its_version(folder, of_last_step):
    lines = [{"step": 3, "a": 1.0, **of_last_step}, late(3, 3, 0.5), late(3, 3, 0.6)]
    kept = (folder / METRICS).read_text().splitlines(keepends=True)[:2]
    (folder / METRICS).write_text("".join(kept) + "".join(json.dumps(one) + "\n" for one in lines))
    steps = read_steps(folder, in_every=["step"])
    assert [one["step"] for one in steps] == [1, 2, 3] and "time" not in metric_columns(steps)
    found = at_versions(metric_columns(steps), "evaluation/pass_rate")
    first = of_last_step.get("evaluation/pass_rate", NAN)
    assert found == pytest.approx([first, NAN, 0.6], nan_ok=True)
    # A run that goes on appends to it.
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 4, "a": 2.0}\n')
    assert len(read_steps(folder)) == 4


def test_another_line_of_a_step_is_none_of_an_evaluation(folder):
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(late(3, 3, 0.5) | {"a": 1.0}) + "\n")
    with pytest.raises(UserError, match=r"line 4 of metrics\.jsonl repeats step 3"):
        read_steps(folder)


NAN = math.nan


@pytest.mark.parametrize(
    ("steps", "versions", "rates", "expected"),
    [
        # Between steps: of the version just published, named or not.
        ([1, 2, 3], [NAN, 2, NAN], [NAN, 0.4, 0.5], [NAN, 0.4, 0.5]),
        # In the background: begun after step 1 and found at 2, begun after 2 and found at 4.
        ([1, 2, 3, 4], [NAN, 1, NAN, 2], [NAN, 0.3, NAN, 0.6], [0.3, 0.6, NAN, NAN]),
        # A version from before the first line that is there has no place.
        ([5, 6, 7], [NAN, 3, 6], [NAN, 0.3, 0.6], [NAN, 0.6, NAN]),
        ([1, 2], None, None, [NAN, NAN]),
        ([], [], [], []),
    ],
)
def test_an_evaluation_belongs_to_the_step_that_published_its_version(
    steps, versions, rates, expected
):
    metrics = {"step": np.array(steps, float)}
    if rates is not None:
        metrics |= {
            "evaluation/version": np.array(versions, float),
            "evaluation/pass_rate": np.array(rates, float),
        }
    assert at_versions(metrics, "evaluation/pass_rate") == pytest.approx(expected, nan_ok=True)
