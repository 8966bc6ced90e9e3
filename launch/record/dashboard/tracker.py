"""The tracker that hands a run's metrics to Ray, as gauges with the run's title as a tag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cost.draws.distribution import DrawCells
from launch.record.dashboard.names import RUN_TAG, ray_name
from launch.record.metrics import METRICS
from launch.record.tracking import OpenTracker, RunInfo, Sample


@dataclass(frozen=True, slots=True)
class RayTracker:
    """Sets one gauge of `ray.util.metrics` per metric, from where Prometheus can scrape it.

    Counts since the start of a run are gauges too: Ray exports a counter only once it counts, and
    "no error" should be a 0 rather than nothing. What is not finite cannot be shown: the gauge then
    keeps the last finite value.
    """

    def open(self, run: RunInfo) -> OpenTracker:
        """Start handing metrics on.

        Raises:
            ValueError: If the process is connected to no Ray cluster.
        """
        import ray

        if not ray.is_initialized():
            raise ValueError(
                "tracker.ray needs a Ray cluster and this process is connected to none; "
                "leave it out with ~tracker.ray"
            )
        opened = _OpenRay(run.title)
        opened.log(run.first_step, {"loop/restarts": float(len(run.restarts))})
        return opened


class _OpenRay:
    def __init__(self, run: str) -> None:
        self._tags = {RUN_TAG: run}
        self._gauges: dict[str, Any] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            if math.isfinite(value):
                self._gauge(key).set(float(value), tags=self._tags)

    def _gauge(self, key: str) -> Any:
        from ray.util.metrics import Gauge

        if key not in self._gauges:
            description = METRICS.get(key, key)
            self._gauges[key] = Gauge(ray_name(key), description, tag_keys=(RUN_TAG,))
        return self._gauges[key]

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        """Text is no metric; the files have it."""

    def cells(self, step: int, cells: DrawCells) -> None:
        """A map of two dimensions; the files have it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a gauge has the last value only."""
        return {}

    def close(self, summary: Mapping[str, object]) -> None:
        """Ray drops the gauges when this process leaves the cluster."""
