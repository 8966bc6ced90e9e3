"""The readers of a run folder: the last line of a step counts, and gaps are filled with NaN.

What is refused, and how, is in `report/test_report.py`, whose page reads every file.
"""

import json

import numpy as np
import pytest

from launch.program import UserError
from launch.record.run_folder import METRICS, metric_columns, read_steps


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
