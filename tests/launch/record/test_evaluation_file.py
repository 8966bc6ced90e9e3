"""A line an evaluation, whole or not there, and none is lost to a full disk."""

import json

import numpy as np

from cost.types import LengthReport
from launch.record.evaluation import Evaluation, SetResult
from launch.record.evaluation_file import EvaluationFile, was_there
from rollout.types import Prompt


def evaluation(version, last_version=None):
    prompts = [Prompt(i, np.ones(3, np.int32), "", "made", "") for i in range(2)]
    reports = [
        LengthReport(
            i, i, 3, 3, np.array([4, 5]), np.zeros(2, bool), np.array([1.0, 0.0]),
            np.zeros(2, np.int64), np.ones(2), np.arange(2), 0.1, version,
        )
        for i in range(2)
    ]  # fmt: skip
    found = {"held_out": SetResult.of(prompts, reports, [1])}
    return Evaluation(version, version if last_version is None else last_version, 2, 1.5, found,
                      None)  # fmt: skip


def lines_of(folder):
    return (folder / "evaluations.jsonl").read_bytes().splitlines(keepends=True)


def test_evaluations_are_appended_and_so_are_those_of_a_run_that_goes_on(tmp_path):
    file = EvaluationFile(tmp_path)
    assert not list(tmp_path.iterdir())
    file.add("before", evaluation(0))
    file.add("on the way", evaluation(4, 6))
    before = lines_of(tmp_path)
    EvaluationFile(tmp_path).add("after", evaluation(8))
    assert lines_of(tmp_path)[:2] == before
    found = [json.loads(line) for line in lines_of(tmp_path)]
    assert [(one["when"], one["last_version"]) for one in found] == [
        ("before", 0), ("on the way", 6), ("after", 8),
    ]  # fmt: skip
    assert found[1] == {"when": "on the way"} | json.loads(json.dumps(evaluation(4, 6).to_json()))


def test_what_had_been_there_when_a_step_was_over_is_told_from_the_line(tmp_path):
    file = EvaluationFile(tmp_path)
    for when, found in (
        ("before", evaluation(0)),
        ("on the way", evaluation(4, 6)),
        ("on the way", evaluation(5)),
        ("after", evaluation(6)),
    ):
        file.add(when, found)
    assert [was_there(line, 5) for line in lines_of(tmp_path)] == [True, False, True, False]
    assert [was_there(line, 6) for line in lines_of(tmp_path)] == [True, True, True, False]
    assert was_there(b"a note of mine\n", 0)


def test_what_was_added_since_is_forgotten_and_a_note_stays(tmp_path):
    file = EvaluationFile(tmp_path)
    file.forget_after(file.size)
    file.add("before", evaluation(0))
    size = file.size
    file.add("on the way", evaluation(4))
    with (tmp_path / "evaluations.jsonl").open("a") as lines:
        lines.write("a note of mine\n")
    file.add("on the way", evaluation(6))
    for _ in range(2):
        EvaluationFile(tmp_path).forget_after(size)
        first, note = lines_of(tmp_path)
        assert json.loads(first)["when"] == "before" and note == b"a note of mine\n"
    file.forget_after(10**6)
    assert len(lines_of(tmp_path)) == 2


def test_what_a_full_disk_refused_is_written_with_the_next(tmp_path, full_at, capsys):
    file = EvaluationFile(tmp_path)
    file.add("before", evaluation(0))
    size = (tmp_path / "evaluations.jsonl").stat().st_size
    full_at(size + 10)
    for version in (2, 4):
        file.add("on the way", evaluation(version))
    assert (tmp_path / "evaluations.jsonl").stat().st_size == size
    full_at(-1)
    file.add("after", evaluation(6))
    assert [json.loads(line)["version"] for line in lines_of(tmp_path)] == [0, 2, 4, 6]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluations.jsonl could not be written (File too large: ")
