"""A run that goes on, on the real stack."""

import shutil

import pytest

from launch.record.restarts import read_restarts
from tests.system.program import finished, lines_of, train

pytestmark = pytest.mark.system
NUM_STEPS = 6


def without_seconds(lines):
    return [
        {
            key: value
            for key, value in line.items()
            if "second" not in key and key != "time" and not key.startswith("checkpoint/")
        }
        for line in lines
    ]


def test_a_run_that_goes_on_is_the_same_to_the_bit(tmp_path):
    settings = ["loop.max_staleness=0", f"loop.num_steps={NUM_STEPS}", "checkpoint.keep_last=9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, out = finished(train(whole, *settings))
    assert status == 0, out
    # As a kill in the fourth step leaves it.
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "policy")
    # While one is being written none is taken: there may not be one of every step.
    steps = {int(path.name[5:]): path for path in (killed / "checkpoints").iterdir()}
    for step in [step for step in steps if step > 3]:
        shutil.rmtree(steps.pop(step))
    status, out = finished(train(killed, *settings))
    assert status == 0, out
    assert without_seconds(lines_of(killed)) == without_seconds(lines_of(whole))
    weights = [(path / "policy" / "model.safetensors").read_bytes() for path in (whole, killed)]
    assert weights[0] == weights[1]
    assert (whole / "samples.jsonl").read_text() == (killed / "samples.jsonl").read_text()
    (restart,) = read_restarts(killed)
    assert (restart.step, restart.lost_steps) == (max(steps), NUM_STEPS - max(steps))
