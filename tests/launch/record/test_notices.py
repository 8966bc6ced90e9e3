"""Sentences on stderr, and failures at a run's end that hide nothing."""

import sys

import pytest
from ray.exceptions import RayTaskError

from launch.cli.refusals import RunError, UserError
from launch.record.notices import Unwritten, tell, why


def test_a_sentence_is_a_line(capsys):
    tell("one \n two")
    assert capsys.readouterr().err == "one two\n"


class Full:
    """A stream to a disk without room."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_stderr_that_takes_nothing_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    tell("lost")


def test_of_a_remote_call_it_is_told_what_was_raised_there():
    raised = OSError(28, "No space left on device", "/a/model.safetensors")
    error = RayTaskError(
        "save", "\x1b[36mray::save()\x1b[39m\nOSError: ...", raised
    ).as_instanceof_cause()
    assert isinstance(error, OSError) and "\n" in str(error)
    assert why(error) == "No space left on device: /a/model.safetensors"


def test_all_that_failed_is_said_with_the_remark():
    unwritten = Unwritten()
    with unwritten.noted("summary.json"):
        pass
    unwritten.check("the policy is in x")
    with unwritten.noted("summary.json"):
        raise OSError(28, "No space left on device", "/a/.summary.json")
    with unwritten.noted("run.png"):
        raise UserError("bad metrics")
    with pytest.raises(RunError) as failure:
        unwritten.check("the policy is in x")
    assert str(failure.value) == (
        "summary.json could not be written (No space left on device: /a/.summary.json); "
        "run.png could not be written (bad metrics); the policy is in x"
    )
