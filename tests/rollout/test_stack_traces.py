"""Stacks of real processes: busy, stopped, gone, and one that offers none."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rollout import stack_traces
from rollout.processes import look
from tests.places import PROJECT

OFFERS = """
import time
from rollout.stack_traces import offer
def in_a_long_call():
    print("ready", flush=True)
    time.sleep(100)
offer()
offer()
in_a_long_call()
"""


@pytest.fixture
def hung(tmp_path):
    (tmp_path / "hung.py").write_text(OFFERS)
    arguments = [sys.executable, tmp_path / "hung.py"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_stacks_say_where_a_process_is_as_often_as_one_asks(hung):
    for _ in range(2):
        text = stack_traces.describe(hung.pid, seconds=30)
        assert text.count("in in_a_long_call") == 1
        assert f"process {hung.pid}" in text and "State:" in text
    assert look(hung.pid) is not None


def test_of_a_stopped_process_the_system_says_what_it_knows(hung):
    hung.send_signal(signal.SIGSTOP)
    while not look(hung.pid).stopped:
        time.sleep(0.01)
    began = time.monotonic()
    text = stack_traces.describe(hung.pid, seconds=30)
    assert "T (stopped)" in text and "it is stopped" in text and "in_a_long_call" not in text
    assert time.monotonic() - began < 20


def test_a_process_that_offers_nothing_is_left_alone():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        assert "none came" in stack_traces.describe(process.pid, seconds=0.2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert stack_traces.describe(process.pid) == f"process {process.pid} is gone\n"


def test_what_one_process_says_is_bounded(hung, monkeypatch):
    monkeypatch.setattr(stack_traces, "LONGEST_STACKS", 50)
    text = stack_traces.describe(hung.pid, seconds=30)
    assert len(text.split("Python stacks:\n")[1]) == 51
