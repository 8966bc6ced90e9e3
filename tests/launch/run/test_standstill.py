"""What ends a process of which no thread can run any more."""

import subprocess
import sys

# Calls through PyDLL keep the interpreter's lock.
PROGRAM = """
import ctypes, time
from launch.run.standstill import ended_after

with ended_after({seconds}, "error: it stands still"):
    ctypes.PyDLL(None).usleep({sleep} * 1000)
time.sleep(0.4)
print("went on")
"""


def run(**values):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(**values)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_ends_with_a_sentence_and_without_a_traceback():
    done = run(seconds=0.2, sleep=50_000)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: it stands still\n")


def test_what_ends_in_time_goes_on_unlimited():
    done = run(seconds=0.3, sleep=1)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
