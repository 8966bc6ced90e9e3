"""TensorBoard reads back what was written; a run that goes on has no step twice."""

import sys
from dataclasses import replace

import pytest

from launch.record.restarts import Restart
from launch.record.tensorboard_tracker import FOLDER, TensorboardTracker
from launch.record.tracking import RunInfo, Sample

SAMPLE = Sample("2+2?", "it is <b>4</b>", "4", "4", 1.0, 4, 0.5, 2.0)


@pytest.fixture
def run(tmp_path):
    return RunInfo("test", tmp_path / "run", {"seed": 3}, 2)


def read(run):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return module.EventAccumulator(str(run.run_dir / FOLDER)).Reload()


def scalars(found, key):
    return [(each.step, each.value) for each in found.Scalars(key)]


def test_metrics_samples_and_results_are_read_back(run):
    pytest.importorskip("tensorboard")
    tracker = TensorboardTracker().open(run)
    for step in (1, 2):
        tracker.log(step, {"learner/loss": 0.5 * step, "loop/staleness": 1.0})
    tracker.samples(2, [SAMPLE])
    tracker.close({"pass_rate_after": 0.75, "completed": True, "objective": "uniform"})
    found = read(run)
    assert scalars(found, "learner/loss") == [(1, 0.5), (2, 1.0)]
    assert scalars(found, "summary/pass_rate_after") == [(2, 0.75)]
    keys = {"learner/loss", "loop/staleness", "summary/pass_rate_after"}
    assert set(found.Tags()["scalars"]) == keys
    (sample,) = found.Tensors("samples")
    assert b"    it is <b>4</b>" in sample.tensor_proto.string_val[0]


def test_steps_that_are_lost_are_passed_over(run):
    pytest.importorskip("tensorboard")
    first = TensorboardTracker().open(run)
    for step in (1, 2, 3):
        first.log(step, {"learner/loss": float(step)})
    first.close({})
    again = TensorboardTracker(samples=False).open(replace(run, first_step=1))
    again.samples(2, [SAMPLE])
    again.log(2, {"learner/loss": 20.0})
    again.close({})
    found = read(run)
    # Both starts may have begun in the same second, so that their files are read in any order.
    assert (2, 20.0) in scalars(found, "learner/loss")
    assert "samples" not in found.Tags()["tensors"]


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, []),
        ({"first_step": 1, "restarts": (Restart(1, 2, 0.0, "died"),)}, [2]),
        ({"restarts": (Restart(0, 3, 0.0, "died"),)}, [1]),
    ],
)
def test_a_run_that_goes_on_says_which_steps_are_lost(run, changes, starts):
    loaders = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    tracker = TensorboardTracker().open(replace(run, **changes))
    tracker.log(run.first_step + 1, {"learner/loss": 1.0})
    tracker.close({})
    (path,) = (run.run_dir / FOLDER).iterdir()
    events = loaders.EventFileLoader(str(path)).Load()
    assert [each.step for each in events if each.HasField("session_log")] == starts


def test_a_missing_package_is_named_with_what_installs_it(run, monkeypatch):
    for name in ("tensorboard", "tensorboard.summary.writer.event_file_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"tracker\.tensorboard needs the package tensorboard"):
        TensorboardTracker().open(run)
