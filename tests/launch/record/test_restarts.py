"""A run folder cut back to an earlier step, and what is noted of restarts."""

import json
import os
import random
from pathlib import Path

import pytest

from launch.cli.refusals import UserError
from launch.record import restarts
from launch.record.restarts import (
    Restart,
    cut_back,
    first_steps_after,
    note_restart,
    read_restarts,
)
from launch.record.run_folder import read_cells, read_samples, read_steps
from tests.examples import example
from tests.launch.record.run_folders import write_run

LINES = ("metrics.jsonl", "samples.jsonl", "cells.jsonl")
FOREIGN = (b"", b"a note of mine", b'{"note": "x", "step": 9}', b"\xff\xfe \x00", b"[1, 2]",
           b'{"step": "9"}', b'{"step": 99999999999999999999, "x": 1}',
           b'{"step": -9, "x": 1}')  # fmt: skip


def evaluation(when, version, last_version=None):
    return {"when": when, "version": version, "last_version": last_version or version, "x": [1.5]}


def line_of(evaluation):
    return json.dumps(evaluation).encode() + b"\n"


def fill(folder, rng, num_steps):
    """A folder as a run of so many steps leaves it, with lines of somebody else's in between."""
    folder.mkdir()
    for name in LINES:
        lines = []
        for step in range(1, num_steps + 1):
            for row in range(rng.randint(0, 3)):
                # The text of a response, with line breaks that are none of the file's.
                text = "é\u2028\r" * rng.randint(0, 40)
                lines.append(json.dumps({"step": step, "row": row, "text": text}).encode())
        for _ in range(rng.randint(0, 4)):
            lines.insert(rng.randint(0, len(lines)), rng.choice(FOREIGN))
        content = b"".join(line + b"\n" for line in lines)
        if rng.random() < 0.5:
            content += json.dumps({"step": num_steps, "text": "cut sho"}).encode()[:-2]
        (folder / name).write_bytes(content)
    evaluations = [evaluation("before", 0)]
    evaluations += [evaluation("on the way", at) for at in range(2, num_steps + 1, 2)]
    evaluations.append(evaluation("after", num_steps))
    (folder / "evaluations.jsonl").write_bytes(
        b"a note of mine\n" + b"".join(line_of(found) for found in evaluations) + b'{"when": "cut'
    )
    (folder / "summary.json").write_text("{}")
    (folder / "run.png").write_text("")
    (folder / "config.yaml").write_text("a: 1")
    (folder / "policy").mkdir()


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def expected(before, step):
    """By hand and in memory, what `cut_back` does."""
    after = {name: text for name, text in before.items() if name not in ("summary.json", "run.png")}
    for name in LINES:
        whole = before[name].split(b"\n")[:-1]
        keys = [line.split(b",")[0].removeprefix(b'{"step": ') for line in whole]
        stay = [not key.isdigit() or len(key) > 18 or int(key) <= step for key in keys]
        ours = [line.startswith(b'{"step": ') for line in whole]
        kept = [line for line, s, o in zip(whole, stay, ours, strict=True) if s or not o]
        after[name] = b"".join(line + b"\n" for line in kept)
    note, *lines, _ = before["evaluations.jsonl"].split(b"\n")
    found = [json.loads(line) for line in lines]
    kept = [e for e in found if e["when"] != "after" and e["last_version"] <= step]
    after["evaluations.jsonl"] = note + b"\n" + b"".join(line_of(e) for e in kept)
    return after


@pytest.mark.parametrize("seed", range(30))
def test_a_folder_is_cut_back_to_what_it_was_whatever_is_in_it(tmp_path, seed, monkeypatch):
    rng = random.Random(seed)
    # Lines longer than what is read at once are whole or gone, too.
    monkeypatch.setattr(restarts, "PART_BYTES", rng.choice([80, 1 << 20]))
    folder, num_steps = tmp_path / "run", rng.randint(1, 12)
    fill(folder, rng, num_steps)
    step = rng.randint(0, num_steps + 2)
    after = expected(content(folder), step)
    for _ in range(2):
        cut_back(folder, step)
        assert content(folder) == after
    assert (folder / "policy").is_dir()


def test_what_was_answered_at_later_steps_goes(tmp_path):
    folder = tmp_path / "responses"
    folder.mkdir()
    names = [f"step-{step}.jsonl" for step in (0, 2, 3, 10)] + ["step-mine.jsonl", "notes.jsonl"]
    for name in names:
        (folder / name).write_text("{}\n")
    cut_back(tmp_path, 2)
    left = {file.name for file in folder.iterdir()}
    assert left == {"step-0.jsonl", "step-2.jsonl", "step-mine.jsonl", "notes.jsonl"}


class Killed(BaseException):
    """The process is no more: nothing that it would have done on the way out is done."""


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_moment_leaves_each_file_old_or_new_and_the_next_cut_does_the_rest(
    tmp_path, seed, monkeypatch
):
    writes = [(os, "truncate"), (os, "fsync"), (Path, "replace"), (Path, "unlink")]
    originals = [getattr(place, name) for place, name in writes]

    def run(folder, lives):
        left = iter(range(lives))

        def dying(original):
            def call(*arguments, **options):
                if next(left, None) is None:
                    raise Killed
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for (place, name), original in zip(writes, originals, strict=True):
                patch.setattr(place, name, dying(original))
            cut_back(folder, 3)
        return lives - sum(1 for _ in left)

    fill(tmp_path / "whole", random.Random(seed), 8)
    before = content(tmp_path / "whole")
    num_writes = run(tmp_path / "whole", 1000)
    after = content(tmp_path / "whole")
    assert num_writes >= 5
    for lives in range(num_writes):
        folder = tmp_path / str(lives)
        fill(folder, random.Random(seed), 8)
        with pytest.raises(Killed):
            run(folder, lives)
        for name, found in content(folder).items():
            assert name.startswith(".") or found in (before[name], after.get(name))
        cut_back(folder, 3)
        assert content(folder) == after


def test_an_evaluation_that_went_on_beside_later_steps_was_not_there(tmp_path):
    found = [evaluation("before", 0), evaluation("on the way", 4, 6), evaluation("on the way", 5)]
    first, second, third = (line_of(each) for each in found)
    (tmp_path / "evaluations.jsonl").write_bytes(first + second + third)
    cut_back(tmp_path, 5)
    assert (tmp_path / "evaluations.jsonl").read_bytes() == first + third


def test_metrics_of_an_evaluation_that_still_went_on_were_not_there(tmp_path):
    step, later = (
        b'{"step": 5, "time": 1.5, "%s": 1.0}\n' % key
        for key in (b"cost/tickets", b"evaluation/version")
    )
    (tmp_path / "metrics.jsonl").write_bytes(step + later)
    cut_back(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == step + later
    cut_back(tmp_path, 5, going_on=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == step


def test_metrics_of_an_evaluation_that_ended_after_an_earlier_step_stay(tmp_path):
    """The run ended with step 4 once, and was made longer; another evaluation went on at step 5."""
    lines = [
        b'{"step": %d, "time": 1.5, "%s": 1.0}\n' % line
        for line in (
            (4, b"cost/tickets"),
            (4, b"evaluation/version"),
            (5, b"cost/tickets"),
            (5, b"evaluation/version"),
        )
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    cut_back(tmp_path, 5, going_on=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(lines[:3])


def test_nothing_is_told_of_a_run_that_begins_once_more(tmp_path):
    names = ("restarts.json", "best.json", "summary.json")
    for name in names:
        (tmp_path / name).write_text("[]")
    cut_back(tmp_path, 0)
    assert [name for name in names if (tmp_path / name).exists()] == ["restarts.json", "best.json"]
    cut_back(tmp_path, -1)
    assert not [name for name in names if (tmp_path / name).exists()]


def test_a_real_run_is_one_run_after_it_went_on(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=12)
    lines = {name: (folder / name).read_text().splitlines(keepends=True) for name in LINES}
    cut_back(folder, 7)
    assert [step["step"] for step in read_steps(folder)] == [*range(1, 8)]
    assert [cells.step for cells in read_cells(folder)] == [*range(1, 8)]
    assert {row["step"] for row in read_samples(folder, ("reward",))} == {1}
    for name in LINES:
        with (folder / name).open("a") as file:
            file.writelines(line for line in lines[name] if json.loads(line)["step"] > 7)
        assert (folder / name).read_text() == "".join(lines[name])


def test_a_disk_that_refuses_is_told_in_a_sentence(tmp_path, full_at):
    folder = write_run(tmp_path / "run", num_steps=12)
    (folder / "samples.jsonl").write_text('{"step": 9, "x": 1}\nnote ' + "x" * 999 + "\n")
    full_at(100)
    for call in (lambda: cut_back(folder, 3), lambda: note_restart(folder, step=3, reason="r")):
        with pytest.raises(UserError, match=r"^run_dir must be writable, got .*: File too large: "):
            call()
    # What is cut off at the end takes no room.
    (folder / "samples.jsonl").unlink()
    cut_back(folder, 3)
    assert len(read_steps(folder)) == 3


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        cut_back(tmp_path / "run", 0)


def test_restarts_are_noted_one_after_the_other(tmp_path):
    assert read_restarts(tmp_path) == []
    shown = example(Restart)
    lines = "".join(json.dumps({"step": step, "x": 1}) + "\n" for step in range(1, 43))
    # The last one, which a kill cut short, was a step as well.
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 43, "x"')
    noted = note_restart(
        tmp_path,
        step=shown.step,
        reason="resumed \nafter  SIGTERM",
        changed={"learner.lr": [7e-05, 5e-05]},
        now=shown.time,
    )
    assert noted == shown
    cut_back(tmp_path, 40)
    second = note_restart(tmp_path, step=40, reason="x" * 9999)
    assert second.lost_steps == 0 and second.time > 1.7e9 and len(second.reason) == 300
    assert read_restarts(tmp_path) == [shown, second]
    cut_back(tmp_path, 20)
    assert len(read_restarts(tmp_path)) == 2, "that a run was restarted is no matter of its steps"


GOOD = {"step": 1, "lost_steps": 0, "time": 1.0, "reason": "r", "changed": {"a": [1, None]}}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "restarts.json is not a list; remove it to forget the restarts"),
        ([GOOD, 3], "step of restart 2 in restarts.json must be a whole number from 0; remove"),
        ([GOOD | {"step": True}], "step of restart 1"),
        ([GOOD | {"step": -1}], "step of restart 1"),
        ([GOOD | {"lost_steps": 1.0}], "lost_steps of restart 1"),
        ([GOOD | {"time": "now"}], "time of restart 1 in restarts.json must be seconds since the"),
        ([GOOD | {"time": 1e300}], "time of restart 1"),
        ([GOOD | {"time": float("nan")}], "time of restart 1"),
        ([GOOD | {"reason": ["r"]}], "reason of restart 1 in restarts.json must be text"),
        ([GOOD | {"changed": [1, 2]}], "changed of restart 1"),
        ([GOOD | {"changed": {"a": [1]}}], "changed of restart 1"),
        ([GOOD | {"changed": {"a": "xy"}}], "changed of restart 1"),
    ],
)
def test_restarts_of_something_else_are_refused_in_a_sentence(tmp_path, found, said):
    (tmp_path / "restarts.json").write_text(json.dumps(found))
    for call in (
        lambda: read_restarts(tmp_path),
        lambda: note_restart(tmp_path, step=1, reason=""),
    ):
        with pytest.raises(UserError, match=r"^a run must be a folder of launch\.train") as refusal:
            call()
        assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert json.loads((tmp_path / "restarts.json").read_text()) == json.loads(json.dumps(found))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_restarts_that_are_no_json_are_refused(tmp_path, text):
    (tmp_path / "restarts.json").write_text(text)
    with pytest.raises(UserError, match=r"restarts\.json is not JSON"):
        read_restarts(tmp_path)


def test_the_steps_with_which_a_run_went_on():
    def at(*steps):
        return first_steps_after([Restart(step, 0, 0.0, "") for step in steps], [1, 2, 3, 5, 6])

    assert at() == at(0) == at(6) == at(9) == []
    assert at(1, 2, 2) == [1, 2]
    assert at(3, 4) == [3]
    # From an earlier step the run took anew what it had taken after a later one.
    assert at(5, 3, 1, 2) == [1, 2]
