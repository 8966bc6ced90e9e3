"""A checkpoint is whole, or it is none."""

import json
import shutil

import pytest

from launch.record.checkpoint import (
    MANIFEST,
    newest_checkpoint,
    partial_folder,
    read_checkpoint,
    remove_later,
    remove_older,
    seal,
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
    remove_later(tmp_path, 10)
    assert steps_in(tmp_path) == ["step-00000010"]


def test_a_step_that_is_learned_anew_replaces_its_checkpoint(tmp_path, write):
    write(4, "old")
    write(4, "new")
    found, _ = newest_checkpoint(tmp_path)
    assert (found.path / "run.npz").read_text().startswith("new")
    assert steps_in(tmp_path) == ["step-00000004"]
