"""Signals at every moment of a program: one sentence and the status that shells have for them."""

import os
import signal
import subprocess
import sys

import pytest

from launch.cli.signals import Interrupted, handled, ignore, interrupt
from tests.places import PROJECT

WAIT = "print('there', flush=True); time.sleep(100)"
PROGRAM = """
import sys, time
from launch.program import run_program, start
{head}
def program():
    {inside}
def main():
    {before}
    run_program(program)
start(main)
"""
MOMENTS = {
    "while modules are imported": {"head": WAIT},
    "while it is composed": {"before": WAIT},
    "while it works": {"inside": WAIT},
}
ENDS_IN_ORDER = f"""try:
        {WAIT}
    finally:
        print('in order', flush=True)
        {{then}}"""


@pytest.fixture
def started(tmp_path):
    """Start a program, and wait until it is where it waits."""
    processes = []

    def start(**parts):
        text = PROGRAM.format(**{"head": "", "inside": "pass", "before": "pass"} | parts)
        (tmp_path / "program.py").write_text(text)
        # As `python -m` begins: the package first, then the program.
        return launch("-c", "import sys; sys.argv = ['-m']; import launch; import program")

    def launch(*arguments):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
            # Whatever the tests were started with.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, start.hangup),
        )
        processes.append(process)
        assert process.stdout.readline() == "there\n"
        return process

    start.launch, start.hangup = launch, signal.SIG_DFL
    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_a_program_in_one_sentence(started, moment, number):
    process = started(**MOMENTS[moment])
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    where = "" if "inside" in MOMENTS[moment] else " while the program was starting"
    assert err == f"error: stopped by {number.name}{where}\n"
    assert process.returncode == 128 + number


def test_a_program_that_is_still_importing_ends_so_too(started, tmp_path):
    (tmp_path / "hydra.py").write_text(f"import time; {WAIT}")
    process = started.launch("-m", "launch.train")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].startswith("error: stopped by SIGINT while")
    assert process.returncode == 130


def test_what_works_is_put_in_order_and_a_second_signal_does_not_wait_for_it(started):
    process = started(inside=ENDS_IN_ORDER.format(then="pass"))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("in order\n", 143)
    process = started(inside=ENDS_IN_ORDER.format(then="time.sleep(100)"))
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "in order\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_a_terminal_that_is_gone_says_so_more_than_once(started):
    process = started(inside=ENDS_IN_ORDER.format(then="time.sleep(100)"))
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "in order\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_a_program_under_nohup_hears_of_no_terminal(started):
    started.hangup = signal.SIG_IGN
    process = started(inside=ENDS_IN_ORDER.format(then="pass"))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("in order\n", "error: stopped by SIGTERM\n")


def test_a_hangup_that_is_held_comes_late_and_never_to_what_was_started_then():
    program = (
        "import os, signal, subprocess\n"
        "from launch.cli.signals import hangups_held\n"
        "signal.signal(signal.SIGHUP, lambda *_: heard.append('hangup'))\n"
        "heard = []\n"
        "with hangups_held():\n"
        "    child = subprocess.Popen(['sleep', '100'])\n"
        "    for pid in (os.getpid(), child.pid):\n"
        "        os.kill(pid, signal.SIGHUP)\n"
        "    heard.append('held')\n"
        "child.terminate()\n"
        "print(*heard, child.wait())\n"
    )
    out = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT, text=True)
    assert out == f"held hangup {-signal.SIGTERM}\n"


def test_a_block_that_must_be_ended_is_not_given_up():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with handled(interrupt):
            with handled(ignore, instead=interrupt):
                pass
            assert signal.getsignal(signal.SIGTERM) is interrupt
            with handled(ignore, instead=interrupt):
                signal.raise_signal(signal.SIGTERM)
            # Whatever comes next is a second one.
            assert signal.getsignal(signal.SIGTERM).__name__ == "end"
        with handled(interrupt):
            with pytest.raises(Interrupted) as stopped:
                signal.raise_signal(signal.SIGTERM)
            assert stopped.value.signal is signal.SIGTERM
            # Nobody takes it for one that is still to come.
            with handled(ignore, instead=interrupt):
                assert signal.getsignal(signal.SIGTERM).__name__ == "end"
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == 2 else before)


def test_another_thread_changes_nothing():
    import threading

    def work():
        with handled(interrupt):
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
