"""The command that starts a sandbox is found where it is, and shows Python and no user's files."""

import os
import sys
from pathlib import Path

from rollout.sandbox.command import command, shown_paths
from rollout.sandbox.config import SandboxConfig


def test_bwrap_is_started_from_where_it_was_found(tmp_path, monkeypatch):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = command("bubblewrap", SandboxConfig(scratch_mib=3), 5, 6, -1)
    assert words[0] == str(bwrap)
    assert words[words.index("--size") + 1] == str(3 * 2**20)
    python = words[words.index("--", 1) + 1 :]
    assert python == command("namespaces", SandboxConfig(), 5, 6, -1)[:-1] + python[-1:]


def test_python_is_shown_and_no_home():
    shown = shown_paths()
    python = os.path.realpath(sys.base_prefix)
    assert any(Path(python).is_relative_to(path) for path in shown)
    assert not {"/", "/home", "/root", "/etc", "/tmp", str(Path.cwd())} & set(shown)
