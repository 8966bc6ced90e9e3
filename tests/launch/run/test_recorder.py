"""What is written down of a run that stops and goes on: seconds and counts, each once."""

import json
from types import SimpleNamespace

import pytest

from launch.record.notices import Unwritten
from launch.run import recorder
from launch.run.inputs import prepare
from launch.run.recorder import Recorder
from tests.composing import composed
from tests.launch.run.system import LocalSystem


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the tests set."""
    clock = SimpleNamespace(now=1000.0)
    clock.time = clock.monotonic = lambda: clock.now
    monkeypatch.setattr(recorder, "time", clock)
    return clock


@pytest.fixture
def inputs(tmp_path):
    config = composed(
        "train",
        "experiment=quickstart",
        f"run_dir={tmp_path / 'run'}",
        "task.num_prompts=4",
        "held_out.num_prompts=2",
        "~tracker.ray",
        "~tracker.console",
    )
    return prepare(config)


def start(inputs, clock):
    system = LocalSystem(inputs.config, inputs.prompts)
    return Recorder(inputs, system, began=clock.now), system


def kept(found):
    return json.loads(json.dumps(found.state_dict()))


def seconds(found):
    summary = found.close(Unwritten(), completed=False)
    return summary["seconds"]["loop"], summary["seconds"]["total"]


def test_seconds_of_a_run_that_is_cut_short_are_counted(inputs, clock):
    found, _ = start(inputs, clock)
    clock.now += 1
    found.open()
    clock.now += 10
    state = kept(found)
    assert seconds(found) == (10, 11)
    clock.now += 500
    again, _ = start(inputs, clock)
    again.load_state_dict(state)
    again.open()
    clock.now += 7
    assert seconds(again) == (17, 18)


def test_a_clock_that_is_set_back_changes_no_seconds(inputs, clock):
    found, _ = start(inputs, clock)
    clock.time = lambda: 0.0
    clock.now += 10
    assert seconds(found)[1] == 10


def test_a_loop_that_ended_gets_no_more_seconds(inputs, clock):
    found, _ = start(inputs, clock)
    found.open()
    clock.now += 10
    found.loop_ended()
    clock.now += 5
    state = kept(found)
    assert seconds(found) == (10, 15)
    again, _ = start(inputs, clock)
    again.load_state_dict(state)
    # It ended before its loop began.
    assert seconds(again) == (10, 15)


def stopped(inputs, clock):
    """Return a run of 10 s to a checkpoint, 4 s more and 2 s of recovery, and what was kept."""
    found, _ = start(inputs, clock)
    found.open()
    clock.now += 10
    state = kept(found)
    clock.now += 4
    found.stop()
    clock.now += 2
    return found, state


@pytest.mark.parametrize("loaded", [False, True])
def test_a_recovery_that_fails_counts_nothing_twice_and_nothing_never(inputs, clock, loaded):
    found, state = stopped(inputs, clock)
    if loaded:
        found.load_state_dict(state)
    # Without the checkpoint all is there that the run did; with it what it goes on from.
    assert seconds(found) == ((10, 12) if loaded else (16, 16))


def test_a_recovery_counts_what_was_before_the_checkpoint_and_after(inputs, clock):
    found, state = stopped(inputs, clock)
    found.load_state_dict(state)
    found.open()
    clock.now += 3
    assert seconds(found) == (13, 15)


def test_counts_of_engines_are_since_the_start_of_the_run(inputs, clock):
    found, system = start(inputs, clock)
    found.open()
    system.rollouts.num_retries, system.rollouts.num_replaced = 3, 1
    state = kept(found)
    # What is lost with steps is counted nowhere.
    system.rollouts.num_retries = 9
    found.stop()
    system.rollouts.num_retries = system.rollouts.num_replaced = 0
    found.load_state_dict(state)
    system.rollouts.num_retries = 2
    expected = {"rollout/retries": 5, "rollout/replaced_actors": 1}
    assert found.state_dict()["counts"] == expected
    again, _ = start(inputs, clock)
    again.load_state_dict(kept(found))
    assert again.state_dict()["counts"] == expected
    # A checkpoint of a version that did not keep them.
    again.load_state_dict({key: own for key, own in state.items() if key != "counts"})
    assert again.state_dict()["counts"] == dict.fromkeys(expected, 0)
