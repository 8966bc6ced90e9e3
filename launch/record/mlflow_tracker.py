"""The tracker `mlflow`: a run at an MLflow tracking server."""

import math
import os
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cost.draws.distribution import DrawCells
from launch.record.background_calls import BackgroundCalls
from launch.record.json_file import json_ready
from launch.record.tracking import OpenTracker, RunInfo, Sample

URI = "MLFLOW_TRACKING_URI"
MOST_METRICS = 500
"""Metrics sent in one call; the server takes 1,000 at most."""
LONGEST_NAME = 250
"""Most characters of a metric's name that the server takes."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Seconds of a request, and how often it is repeated; MLflow's own are 120 and 7."""


@dataclass(frozen=True, slots=True)
class MlflowTracker:
    """Sends metrics, samples, configuration and results to MLflow; needs the extra `mlflow`.

    The account is MLflow's own business: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD. A run that goes on after a stop goes on under the same id; MLflow
    keeps what it was sent, so that lost steps are there twice, and the tag `went_on_from` says
    since when. Metrics and samples are sent beside the run, which never waits for the server but
    where it begins and, for half a minute at most, where it ends.
    """

    experiment: str = "cost-aware-rl"
    """Under which MLflow lists the run; made where there is none."""
    uri: str | None = None
    """Of the tracking server, as http://HOST:5000; None takes MLFLOW_TRACKING_URI."""

    def __post_init__(self) -> None:
        """Refuse an address with a password in it."""
        if "@" in (self.uri or ""):
            raise ValueError(
                "tracker.mlflow.uri must not hold a user or password, which the run folder would "
                "keep; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, got "
                f"{len(self.uri or '')} letters with an @"
            )

    def open(self, run: RunInfo) -> OpenTracker:
        """Begin a run at the server, or go on with it.

        Raises:
            ValueError: If no server is named, or the package is not installed.
        """
        uri = self.uri or os.environ.get(URI)
        if not uri:
            raise ValueError(
                f"tracker.mlflow.uri must name a tracking server, here or in {URI}, got {self.uri}"
            )
        # MLflow would report on its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ValueError(
                'tracker.mlflow needs the package mlflow-skinny: pip install -e ".[mlflow]"'
            ) from error
        client = MlflowClient(uri)
        known = run.state.get("run_id")
        if known:
            client.update_run(known, status="RUNNING")
            client.set_tag(known, "went_on_from", str(run.first_step))
            return _OpenMlflow(client, known)
        experiment = _experiment_id(client, self.experiment)
        begun = client.create_run(experiment, run_name=run.title, tags={"name": run.name})
        client.log_dict(begun.info.run_id, json_ready(run.config), "config.json")
        return _OpenMlflow(client, begun.info.run_id)


def _experiment_id(client: Any, name: str) -> str:
    """Return the id of an experiment, which is made where there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        # Of MLflow's own kind where another run made it meanwhile.
        except Exception:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


class _OpenMlflow:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._sending = BackgroundCalls()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        sent = [
            Metric(metric_name(key), float(value), now, step)
            for key, value in metrics.items()
            if math.isfinite(value)
        ]

        def send() -> None:
            for first in range(0, len(sent), MOST_METRICS):
                self._client.log_batch(self._run_id, metrics=sent[first : first + MOST_METRICS])

        self._sending.put(send)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        content = {"samples": json_ready([asdict(row) for row in rows])}
        name = f"samples/{step:08d}.json"
        self._sending.put(lambda: self._client.log_dict(self._run_id, content, name))

    def cells(self, step: int, cells: DrawCells) -> None:
        """The metrics say how far from uniform the draws are; the files have the rest."""

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def close(self, summary: Mapping[str, object]) -> None:
        status = "FINISHED" if summary.get("completed") is True else "FAILED"

        def end() -> None:
            try:
                if summary:
                    self._client.log_dict(self._run_id, json_ready(summary), "summary.json")
            finally:
                self._client.set_terminated(self._run_id, status=status)

        try:
            self._sending.put(end)
        finally:
            self._sending.close()


def metric_name(key: str) -> str:
    """Return a metric's name as MLflow takes it; sources of a data column may be anything.

    Example: "evaluation/math/R&D (hard)/pass_rate" -> "evaluation/math/R_D _hard_/pass_rate"
    """
    # One name that the server does not take would have it refuse the whole batch.
    letters = re.sub(r"[^\w.\- /]", "_", key)
    return posixpath.normpath(letters)[:LONGEST_NAME].rstrip("/")
