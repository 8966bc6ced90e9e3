"""Files that are old or new, lines that are there or not, on a disk that fills up or breaks."""

import errno
import os
import resource

import pytest

from launch.record.atomic_files import AtomicLines, remove_leftovers, write_atomically


def test_a_file_is_replaced_whole_and_its_size_is_returned(tmp_path):
    path = tmp_path / "file"
    assert write_atomically(path, [b"ab", b"", b"c"]) == 3 and path.read_bytes() == b"abc"
    assert write_atomically(path, []) == 0 and path.read_bytes() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_on_a_full_disk_the_old_file_stays_and_nothing_beside_it(tmp_path, full_at):
    path = tmp_path / "file"
    write_atomically(path, [b"old"])
    full_at(1000)
    with pytest.raises(OSError, match="File too large") as failure:
        write_atomically(path, [b"x" * 600, b"y" * 600])
    assert failure.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_whatever_goes_wrong_nothing_is_left_beside(tmp_path):
    def parts():
        yield b"new"
        raise KeyboardInterrupt

    write_atomically(tmp_path / "file", [b"old"])
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", parts())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".file.17", ".file.ü", ".other.17", "file", ".file"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path / "file")
    assert {entry.name for entry in tmp_path.iterdir()} == {".file.ü", ".other.17", "file", ".file"}


def test_a_line_that_does_not_fit_is_not_there_and_fits_once_there_is_room(tmp_path, full_at):
    path = tmp_path / "lines"
    path.write_bytes(b"before\n")
    lines = AtomicLines(path)
    assert lines.append(b"one\n") == 7
    full_at(40)
    for _ in range(2):
        with pytest.raises(OSError, match="File too large") as failure:
            lines.append(b"x" * 100 + b"\n")
        assert failure.value.filename == str(path)
        assert path.read_bytes() == b"before\none\n"
    full_at(1000)
    assert lines.append(b"two\n") == 11
    assert path.read_bytes() == b"before\none\ntwo\n"


def test_a_part_that_could_not_be_taken_back_at_once_is_taken_back_before_the_next_line(
    tmp_path, full_at, monkeypatch
):
    """A disk that refuses everything for a while, as one that is read-only."""
    path = tmp_path / "lines"
    lines = AtomicLines(path)
    lines.append(b"one\n")

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    full_at(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", refuse)
        for _ in range(2):
            with pytest.raises(OSError):
                lines.append(b"x" * 100)
    assert path.read_bytes() == b"one\nxxxxxx"
    full_at(1000)
    lines.append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_process_without_a_free_file_handle_writes_once_it_has_one(tmp_path):
    path = tmp_path / "lines"
    lines = AtomicLines(path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            lines.append(b"one\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    lines.append(b"one\n")
    assert path.read_bytes() == b"one\n"
