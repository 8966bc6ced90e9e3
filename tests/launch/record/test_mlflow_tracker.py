"""What MLflow is sent; its client is a hand-written one with the methods that are called."""

import math
import os
import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from launch.record.mlflow_tracker import MOST_METRICS, MlflowTracker
from launch.record.tracking import RunInfo, Sample

SAMPLE = Sample("2+2?", "it is 4", "4", "4", 1.0, 4, 0.5, 2.0)


class FakeClient:
    """Keeps what it is sent, as the server of `mlflow.tracking.MlflowClient` does."""

    def __init__(self, uri):
        self.uri, self.sent, self.files, self.tags, self.status = uri, [], {}, {}, {}
        FakeClient.last = self

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return f"id of {name}"

    def create_run(self, experiment_id, *, run_name, tags):
        self.begun = (experiment_id, run_name, tags)
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run_id, *, status):
        self.status[run_id] = status

    def set_tag(self, run_id, key, value):
        self.tags[run_id, key] = value

    def log_batch(self, run_id, *, metrics):
        assert len(metrics) <= 1000
        self.sent += [(run_id, *each) for each in metrics]

    def log_dict(self, run_id, content, artifact_file):
        self.files[run_id, artifact_file] = content

    def set_terminated(self, run_id, *, status):
        self.status[run_id] = status


@pytest.fixture(autouse=True)
def mlflow(monkeypatch):
    for name in ("mlflow", "mlflow.tracking", "mlflow.entities"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mlflow.tracking"].MlflowClient = FakeClient
    sys.modules["mlflow.entities"].Metric = lambda key, value, timestamp, step: (key, value, step)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def run(tmp_path):
    return RunInfo("test", tmp_path / "test-1", {"seed": 3}, 2)


def test_metrics_samples_configuration_and_results_are_sent(run):
    tracker = MlflowTracker(uri="http://server:5000").open(run)
    many = {f"x/{number}": 1.0 for number in range(MOST_METRICS)}
    tracker.log(1, {"learner/loss": 0.5, "learner/lr": math.nan} | many)
    tracker.samples(1, [SAMPLE])
    tracker.close({"completed": True, "num_steps": 1})
    client = FakeClient.last
    assert client.uri == "http://server:5000"
    assert client.begun == ("id of cost-aware-rl", "test-1", {"name": "test"})
    assert client.sent[0] == ("r1", "learner/loss", 0.5, 1)
    assert len(client.sent) == 1 + MOST_METRICS
    assert client.files["r1", "config.json"] == {"seed": 3}
    (sample,) = client.files["r1", "samples/00000001.json"]["samples"]
    assert sample["response"] == "it is 4"
    assert client.files["r1", "summary.json"]["num_steps"] == 1
    assert client.status == {"r1": "FINISHED"}


def test_an_experiment_that_another_run_makes_meanwhile_is_used(run, monkeypatch):
    made = []

    def create(self, name):
        made.append(SimpleNamespace(experiment_id="theirs"))
        raise RuntimeError("RESOURCE_ALREADY_EXISTS")

    monkeypatch.setattr(FakeClient, "create_experiment", create)
    monkeypatch.setattr(
        FakeClient, "get_experiment_by_name", lambda self, name: made[0] if made else None
    )
    MlflowTracker(uri="http://server").open(run).close({})
    assert FakeClient.last.begun[0] == "theirs"


def test_a_run_that_goes_on_goes_on_under_its_id(run):
    first = MlflowTracker(uri="http://server").open(run)
    state = first.state_dict()
    first.close({})
    assert FakeClient.last.status == {"r1": "FAILED"}
    again = MlflowTracker(uri="http://server").open(replace(run, first_step=7, state=state))
    client = FakeClient.last
    assert client.tags == {("r1", "went_on_from"): "7"} and client.status == {"r1": "RUNNING"}
    again.log(8, {"learner/loss": 0.1})
    again.close({"completed": True})
    assert client.sent == [("r1", "learner/loss", 0.1, 8)] and again.state_dict() == state


def test_a_server_that_never_answers_holds_nothing_up(run, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    answer = threading.Event()
    monkeypatch.setattr(FakeClient, "log_batch", lambda *_, **__: answer.wait())
    monkeypatch.setattr(FakeClient, "log_dict", lambda *_: answer.wait())
    # Where calls were made at once this would hang here.
    tracker = MlflowTracker(uri="http://server").open(replace(run, state={"run_id": "r1"}))
    tracker.log(1, {"learner/loss": 0.5})
    tracker.samples(1, [SAMPLE])
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    answer.set()
    tracker.close({"completed": True})
    assert FakeClient.last.status == {"r1": "FINISHED"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("learner/loss", "learner/loss"),
        ("evaluation/x/R&D (hard), 7%: a/pass_rate", "evaluation/x/R_D _hard__ 7__ a/pass_rate"),
        ("evaluation/x//./y/pass_rate", "evaluation/x/y/pass_rate"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_are_such_as_the_server_takes(run, key, name):
    tracker = MlflowTracker(uri="http://server").open(run)
    tracker.log(1, {key: 1.0})
    tracker.close({})
    assert FakeClient.last.sent == [("r1", name, 1.0, 1)]


def test_a_server_is_named_and_no_password_with_it(run, monkeypatch):
    with pytest.raises(ValueError, match=r"tracker\.mlflow\.uri must name a tracking server"):
        MlflowTracker().open(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    MlflowTracker().open(run)
    assert FakeClient.last.uri == "http://elsewhere"
    with pytest.raises(ValueError, match="must not hold a user or password") as refused:
        MlflowTracker(uri="http://me:secret@server")
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named_with_what_installs_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ValueError, match="pip install -e"):
        MlflowTracker(uri="http://server").open(run)
