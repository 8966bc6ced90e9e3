"""The token of clusters that are started here is nobody else's to read."""

import os
import stat
from pathlib import Path

import pytest

from launch.run.auth_token import keep_token_private


@pytest.fixture(autouse=True)
def open_to_all():
    """A umask that takes no rights away."""
    before = os.umask(0)
    yield
    os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_once_and_for_its_user_alone(tmp_path):
    keep_token_private(tmp_path, {})
    token = tmp_path / ".ray" / "auth_token"
    first = token.read_text()
    assert len(bytes.fromhex(first)) == 32
    assert rights(token) == 0o600
    assert rights(token.parent) == 0o700
    keep_token_private(tmp_path, {})
    assert token.read_text() == first
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_token_that_others_may_read_is_taken_from_them(mode, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("as it was")
    token.chmod(mode)
    keep_token_private(tmp_path, {})
    assert rights(token) == 0o600
    assert token.read_text() == "as it was"


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_from_elsewhere_needs_no_file(name, tmp_path):
    keep_token_private(tmp_path, {name: "other"})
    assert not (tmp_path / ".ray").exists()


def test_a_user_without_a_folder_that_can_be_written_has_a_token_in_the_environment(
    tmp_path, monkeypatch
):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / ".ray").write_text("a file")
    written, nowhere = {}, {}
    keep_token_private(tmp_path, written)
    monkeypatch.setattr(Path, "home", homeless)
    keep_token_private(environ=nowhere)
    assert len(bytes.fromhex(written["RAY_AUTH_TOKEN"])) == 32
    assert len(bytes.fromhex(nowhere["RAY_AUTH_TOKEN"])) == 32
    assert (tmp_path / ".ray").read_text() == "a file"


def test_a_token_that_another_process_made_meanwhile_stays(tmp_path, monkeypatch):
    token = tmp_path / ".ray" / "auth_token"

    def link(draft, path):
        path.write_text("faster")
        raise FileExistsError(path)

    monkeypatch.setattr(os, "link", link)
    keep_token_private(tmp_path, {})
    assert token.read_text() == "faster"
