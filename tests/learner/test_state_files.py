"""Pieces of tensors on the disk, written in the background."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from learner.state_description import Layout, LearnerState, Number, ParameterState
from learner.state_files import (
    DTYPES,
    WEIGHTS,
    BackgroundWriter,
    file_of,
    opened,
    piece_name,
    write_share,
    write_tensors,
)

STATE = LearnerState(
    num_ranks=2,
    dtype="float32",
    lora_rank=0,
    optimizer="torch.optim.adamw.AdamW",
    applied_steps=3,
    skipped_in_a_row=1,
    loss_scale={"cur_scale": 1024.0, "cur_iter": 7},
    groups=[{"k": 3}],
    parameters={
        "a/b.weight": ParameterState(
            Layout("float32", [2, 5]), {}, {"step": Number(0.1, "float32"), "done": Number(None)}
        )
    },
)


def written(folder, cuts):
    """The numbers 0 to 9, each rank's from a cut to the next one."""
    for rank in range(2):
        begin, end = cuts[rank]
        piece = {piece_name(WEIGHTS, "a/b.weight", begin): torch.arange(begin, end).float()}
        write_share(folder, rank, STATE, piece)
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_safetensors(tmp_path, dtype):
    tensors = {"one": torch.arange(7).to(dtype), "none": torch.zeros(0, dtype=dtype)}
    tensors["é"] = torch.ones(3, dtype=dtype)
    write_tensors(tmp_path / "file.safetensors", tensors)
    loaded = safetensors.torch.load_file(tmp_path / "file.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype and torch.equal(loaded[name], tensor)


def test_ranges_are_read_across_pieces(tmp_path):
    folder = written(tmp_path, [(0, 6), (6, 10)])
    state = LearnerState.read(folder)
    assert state == STATE
    with opened(folder, 2) as files:
        files.check(state)
        for first in range(10):
            for length in range(1, 11 - first):
                found = files.read(WEIGHTS, "a/b.weight", first, length)
                assert found.tolist() == list(range(first, first + length))


@pytest.mark.parametrize("cuts", [[(0, 6), (7, 10)], [(1, 6), (6, 10)], [(0, 6), (6, 9)]])
def test_what_is_not_whole_is_refused(tmp_path, cuts):
    match = r"must hold the whole weights of a/b\.weight, but"
    with opened(written(tmp_path, cuts), 2) as files, pytest.raises(ValueError, match=match):
        files.check(STATE)


def test_files_that_cannot_be_read_are_named(tmp_path):
    folder = written(tmp_path, [(0, 6), (6, 10)])
    cut = folder / file_of(1, 2)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"^{cut} cannot be read: "), opened(folder, 2):
        pass
    cut.unlink()
    with pytest.raises(ValueError, match=rf"^{cut} cannot be read: "), opened(folder, 2):
        pass
    safetensors.torch.save_file({"else": torch.ones(1)}, cut)
    match = rf"^{cut} has a tensor that is no piece: 'else'$"
    with pytest.raises(ValueError, match=match), opened(folder, 2):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parameters": {}}', '{"parameters": {"a": 1}}'])
def test_a_description_that_is_none_is_named(tmp_path, text):
    (tmp_path / "learner.json").write_text(text)
    with pytest.raises(ValueError, match=r"learner\.json is no description of a learner's state"):
        LearnerState.read(tmp_path)


def test_who_writes_in_the_background_says_how_it_ended(tmp_path, monkeypatch):
    writer = BackgroundWriter()
    assert writer.outcome() == (True, None)
    state = replace(STATE, num_ranks=1)
    tensors = {piece_name(WEIGHTS, "a/b.weight", 0): torch.zeros(10)}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for folder, number in ((tmp_path / "nowhere", errno.ENOENT), (tmp_path, errno.ENOSPC)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            writer.begin(folder, 0, state, tensors)
            writer._thread.join()
        done, error = writer.outcome()
        assert done and isinstance(error, OSError) and error.errno == number
    # The next one waits for its turn, and is judged by itself.
    pipe = tmp_path / "slow"
    pipe.mkdir()
    os.mkfifo(pipe / file_of(0, 1))
    writer.begin(pipe, 0, state, tensors)
    assert writer.outcome() == (False, None)
    assert Path(pipe / file_of(0, 1)).read_bytes()
    writer.begin(tmp_path, 0, state, tensors)
    writer._thread.join()
    assert writer.outcome() == (True, None)
    assert LearnerState.read(tmp_path) == state
