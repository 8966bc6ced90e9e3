"""A terminal that is closed while a program prints on it."""

import signal
import subprocess
import sys
import time

import pytest

from tests.places import PROJECT
from tests.terminal import Terminal

PROGRAM = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGHUP, signal.{hangup})
folder, sys.argv = Path(sys.argv[1]), ["-m"]
import launch
from launch.program import run_program
from launch.record.console import get_console

def main():
    try:
        while not (folder / "closed").exists():
            get_console().print("a line")
            (folder / "begun").touch()
            time.sleep(0.01)
    finally:
        get_console().print("the last line")
        print("and another", file=sys.stderr, flush=True)
        (folder / "done").touch()

run_program(main)
"""


@pytest.mark.parametrize(("hangup", "status"), [("SIG_DFL", 128 + signal.SIGHUP), ("SIG_IGN", 0)])
def test_a_program_comes_to_its_end_without_its_terminal(tmp_path, hangup, status):
    terminal = Terminal()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(hangup=hangup), str(tmp_path)],
        cwd=PROJECT,
        stdout=terminal.file,
        stderr=terminal.file,
        **terminal.options(),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        terminal.close()
        (tmp_path / "closed").touch()
        assert process.wait(60) == status
    finally:
        process.kill()
    assert (tmp_path / "done").exists()
