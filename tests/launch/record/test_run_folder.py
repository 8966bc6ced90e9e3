"""The readers of a run folder: the last line of a step counts, and gaps are filled with NaN.

What is refused, and how, is in `report/test_report.py`, whose page reads every file.
"""

import json
import math

import numpy as np
import pytest

from launch.program import UserError
from launch.record.run_folder import METRICS, at_versions, metric_columns, read_steps


@pytest.fixture
def folder(tmp_path):
    records = [{"step": 2, "a": 1.0}, {"step": 1, "b": 5.0}, {"step": 2, "a": None, "b": 6.0}]
    (tmp_path / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_the_last_line_of_a_step_counts_and_gaps_are_filled(folder):
    columns = metric_columns(read_steps(folder))
    assert columns["step"].tolist() == [1, 2]
    assert np.isnan(columns["a"]).all()
    assert columns["b"].tolist() == [5.0, 6.0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"in_every": ["b"]}, "line 1 of metrics.jsonl has no b; it is of another version"),
        ({"in_some": ["c"]}, "no line of metrics.jsonl has c; it is of another version"),
        ({"at_least": 3}, "metrics.jsonl has 2 steps, and at least 3 steps are needed"),
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
