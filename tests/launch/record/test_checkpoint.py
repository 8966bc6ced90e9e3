"""A checkpoint is whole, or it is none."""

import json
import os
import shutil
from pathlib import Path

import pytest

from launch.record.checkpoint import (
    MANIFEST,
    newest_checkpoint,
    partial_folder,
    read_checkpoint,
    remove_older,
    remove_unfinished,
    seal,
    set_aside_later,
)


@pytest.fixture
def write(tmp_path):
    """Write a checkpoint of a step."""

    def build(step, content="weights"):
        partial = partial_folder(tmp_path, step)
        for name in ("scheduler.npz", "run.npz", "groups/7.npz", "learner/rank-0.safetensors"):
            (partial / name).write_text(f"{content} {step} {name}")
        return seal(partial, step, {"settings": {"seed": 0}})

    return build


def steps_in(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_what_was_written_is_read(tmp_path, write):
    for step in (2, 4):
        written = write(step)
    found, faults = newest_checkpoint(tmp_path)
    assert found == written and faults == []
    assert found.step == 4 and found.about == {"settings": {"seed": 0}}
    assert newest_checkpoint(tmp_path / "elsewhere") == (None, [])


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip, lambda path: path.unlink()])
@pytest.mark.parametrize(
    "name", ["scheduler.npz", "run.npz", "groups/7.npz", "learner/rank-0.safetensors"]
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_taken(tmp_path, write, damage, name):
    write(2), write(4)
    damage(tmp_path / "checkpoints" / "step-00000004" / name)
    found, (fault,) = newest_checkpoint(tmp_path)
    assert found.step == 2 and name in fault


@pytest.mark.parametrize("damage", [cut_short, flip])
def test_a_damaged_manifest_is_none(tmp_path, write, damage):
    write(2), write(4)
    damage(tmp_path / "checkpoints" / "step-00000004" / MANIFEST)
    found, (fault,) = newest_checkpoint(tmp_path)
    assert found.step == 2 and MANIFEST in fault


def test_a_folder_that_was_not_sealed_is_passed_over(tmp_path, write):
    write(2)
    partial = partial_folder(tmp_path, 4)
    (partial / "run.npz").write_text("half")
    shutil.copytree(partial, partial.with_name("step-00000005"))
    found, faults = newest_checkpoint(tmp_path)
    assert found.step == 2 and faults == []
    # What a run that was killed left is written over by the next.
    assert not (partial_folder(tmp_path, 4) / "run.npz").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"step": 5},
        {"files": {"../../etc/passwd": [1, "0"], "scheduler.npz": [0, ""], "run.npz": [0, ""]}},
        {"files": {}},
        {"about": None},
    ],
)
def test_a_foreign_manifest_is_refused(write, change):
    path = write(4).path / MANIFEST
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json must be"):
        read_checkpoint(path.parent)
    # Also when whoever wrote it knows how to make its checksum.
    from launch.record import checkpoint

    manifest["checksum"] = checkpoint._own_checksum(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="must be"):
        read_checkpoint(path.parent)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\x00", '{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(write, text):
    path = write(4).path / MANIFEST
    path.write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json must be"):
        read_checkpoint(path.parent)


def test_the_newest_are_kept(tmp_path, write):
    for step in (2, 4, 10, 11):
        write(step)
    remove_older(tmp_path, 2)
    assert steps_in(tmp_path) == ["step-00000010", "step-00000011"]


def test_a_step_that_is_learned_anew_replaces_its_checkpoint(tmp_path, write):
    write(4, "old")
    write(4, "new")
    found, _ = newest_checkpoint(tmp_path)
    assert (found.path / "run.npz").read_text().startswith("new")
    assert steps_in(tmp_path) == ["step-00000004"]


def test_later_ones_are_set_aside_under_names_that_nobody_reads(tmp_path, write):
    for content in ("first", "second"):
        write(4), write(11, content)
        set_aside_later(tmp_path, 4)
        assert newest_checkpoint(tmp_path)[0].step == 4
    aside = ["step-00000011.aside", "step-00000011.aside1"]
    assert steps_in(tmp_path) == ["step-00000004", *aside]
    read = [(tmp_path / "checkpoints" / name / "run.npz").read_text() for name in aside]
    assert [text.split()[0] for text in read] == ["first", "second"]


@pytest.mark.parametrize("again", [11, 12])
def test_what_is_set_aside_goes_when_its_steps_are_learned_and_saved_anew(tmp_path, write, again):
    for _ in range(2):
        write(4), write(11)
        set_aside_later(tmp_path, 4)
    aside = ["step-00000011.aside", "step-00000011.aside1"]
    (tmp_path / "checkpoints" / "step-00000003.aside-mine").mkdir()
    for step in (8, 10):
        write(step)
        remove_unfinished(tmp_path)
        remove_older(tmp_path, 1)
        assert steps_in(tmp_path) == ["step-00000003.aside-mine", f"step-{step:08d}", *aside]
    write(again)
    # A run that is killed here removes them after its next checkpoint.
    assert {*aside} < {*steps_in(tmp_path)}
    remove_older(tmp_path, 1)
    assert steps_in(tmp_path) == ["step-00000003.aside-mine", f"step-{again:08d}"]


def test_a_checkpoint_that_cannot_take_its_name_leaves_the_one_of_that_step(
    tmp_path, write, monkeypatch
):
    write(4, "old")
    rename = Path.rename

    def fail(path, target):
        if path.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        write(4, "new")
    found, _ = newest_checkpoint(tmp_path)
    assert (found.path / "run.npz").read_text().startswith("old")


@pytest.mark.parametrize("read", [newest_checkpoint, remove_unfinished])
def test_one_whose_name_was_taken_when_the_run_was_killed_has_it_back(tmp_path, write, read):
    path = write(4).path
    path.rename(path.with_name(".step-00000004.old"))
    read(tmp_path)
    assert newest_checkpoint(tmp_path)[0].step == 4 and steps_in(tmp_path) == [path.name]


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path, write):
    write(2), write(4)
    for name in (".step-00000007.partial", ".step-00000004.old", "step-00000001"):
        (tmp_path / "checkpoints" / name / "learner").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    remove_unfinished(tmp_path)
    assert steps_in(tmp_path) == ["notes.txt", "step-00000002", "step-00000004"]
    remove_unfinished(tmp_path / "elsewhere")


def test_a_folder_that_cannot_be_looked_into_is_a_fault_and_stays(tmp_path, write, monkeypatch):
    write(2), write(4)
    listdir = os.listdir

    def stale(path):
        if Path(path).name == "step-00000004":
            raise OSError(116, "Stale file handle")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", stale)
    real_stat = Path.stat

    def stat(path, **named):
        if path.parent.name == "step-00000004":
            raise OSError(116, "Stale file handle")
        return real_stat(path, **named)

    monkeypatch.setattr(Path, "stat", stat)
    found, (fault,) = newest_checkpoint(tmp_path)
    assert found.step == 2 and "must be readable: Stale file handle" in fault
    remove_unfinished(tmp_path)
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path)[0].step == 4


@pytest.mark.parametrize("aside", [False, True])
def test_one_that_is_removed_is_whole_or_gone_at_any_moment(tmp_path, write, monkeypatch, aside):
    write(2)
    name = "step-00000002"
    if aside:
        [path] = set_aside_later(tmp_path, 1)
        name = path.name
    write(4)
    # As if the run were killed while files are removed.
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    remove_older(tmp_path, 1)
    assert steps_in(tmp_path) == [f".{name}.removed", "step-00000004"]
    monkeypatch.undo()
    remove_unfinished(tmp_path)
    assert steps_in(tmp_path) == ["step-00000004"]
