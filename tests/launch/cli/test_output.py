"""Streams that are closed from the start, and a terminal that is closed later on."""

import os
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


def test_a_program_whose_streams_are_closed_writes_them_nowhere(tmp_path):
    script = (
        "import os; from launch.cli.output import open_streams; open_streams();"
        "file = open('a', 'w'); os.write(1, b'x'); os.write(2, b'x'); print('x'); file.write('a')"
    )
    command = [sys.executable, "-c", script]
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command], cwd=tmp_path)
    assert closed.returncode == 0
    assert (tmp_path / "a").read_text() == "a"


def test_letters_that_an_output_lacks_are_written_as_numbers():
    script = (
        "from launch.cli.output import open_streams; open_streams(); print('na\u00efve \u4f60')"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert told.stdout == b"na\xefve \\u4f60\n"
