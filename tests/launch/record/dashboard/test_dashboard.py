"""The dashboard: names, queries, shipped files, and the gauges that feed them."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import ray
import ray.util.metrics

from launch.record.dashboard.files import grafana
from launch.record.dashboard.names import prometheus_name, ray_name
from launch.record.dashboard.panels import PANELS, Query
from launch.record.dashboard.tracker import RayTracker
from launch.record.metrics import METRICS
from launch.record.restarts import Restart
from launch.record.tracking import RunInfo

RUN = RunInfo("test", Path("runs/test"), {}, 2)


def test_every_metric_has_a_name_of_its_own_that_prometheus_allows():
    names = {ray_name(key) for key in METRICS}
    assert len(names) == len(METRICS)
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) for name in names)
    assert prometheus_name("loop/staleness") == "ray_cost_aware_rl_loop_staleness"


def test_names_that_users_choose_become_ones_that_prometheus_allows():
    name = ray_name("evaluation/AIME 2024-I/größe:pass_rate\n")
    assert name == "cost_aware_rl_evaluation_AIME_2024_I_gr__e_pass_rate_"


def test_a_query_names_metrics_that_exist():
    with pytest.raises(ValueError, match=r"'loop/patience', which launch\.record\.metrics lacks"):
        Query("x", "<loop/patience> / <loop/update_seconds>")
    with pytest.raises(ValueError, match="a query must name a metric"):
        Query("x", "up")


def test_an_expression_selects_the_run_in_every_metric():
    query = Query("x", "<loop/wait_seconds> + <loop/update_seconds>")
    assert query.expression("a.*") == (
        'ray_cost_aware_rl_loop_wait_seconds{run=~"a.*"} + '
        'ray_cost_aware_rl_loop_update_seconds{run=~"a.*"}'
    )


def test_the_panels_show_what_an_operator_asks_for():
    shown = {key for panel in PANELS for query in panel.queries for key in query.keys}
    assert shown >= {
        "loop/generated_tokens",
        "rollout/tickets_in_flight",
        "loop/staleness",
        "rollout/length_mean_tokens",
        "cost/step_saved_share",
        "publish/seconds",
        "checkpoint/pause_seconds",
        "rollout/replaced_actors",
        "cost/failed_tickets",
    }


def test_a_grafana_dashboard_has_its_panels_side_by_side():
    made = grafana()["panels"]
    assert [panel["title"] for panel in made] == [panel.title for panel in PANELS]
    assert len({panel["id"] for panel in made}) == len(made)
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in made
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    for panel in made:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all('{run=~"$run"}' in target["expr"] for target in panel["targets"])


class FakeGauge:
    """Remembers every value by name and tags."""

    values: ClassVar[dict] = {}
    made: ClassVar[list] = []

    def __init__(self, name, description, tag_keys):
        assert tag_keys == ("run",) and description
        self.name = name
        self.made.append(name)

    def set(self, value, tags):
        self.values[self.name, tags["run"]] = value


@pytest.fixture
def gauges(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util.metrics, "Gauge", FakeGauge)
    monkeypatch.setattr(FakeGauge, "values", {})
    monkeypatch.setattr(FakeGauge, "made", [])
    return FakeGauge


def test_the_tracker_sets_gauges_and_keeps_the_last_finite_value(gauges):
    tracker = RayTracker().open(RUN)
    assert gauges.values == {("cost_aware_rl_loop_restarts", "test"): 0.0}
    gauges.values.clear()
    gauges.made.clear()
    tracker.log(1, {"learner/loss": 0.5, "rollout/retries": 0.0, "loop/staleness": math.nan})
    assert gauges.values == {
        ("cost_aware_rl_learner_loss", "test"): 0.5,
        ("cost_aware_rl_rollout_retries", "test"): 0.0,
    }
    tracker.log(2, {"learner/loss": math.inf, "rollout/retries": 2.0})
    assert gauges.values == {
        ("cost_aware_rl_learner_loss", "test"): 0.5,
        ("cost_aware_rl_rollout_retries", "test"): 2.0,
    }
    assert sorted(gauges.made) == ["cost_aware_rl_learner_loss", "cost_aware_rl_rollout_retries"]
    tracker.close({})


def test_the_tracker_tells_of_restarts_and_the_dashboard_marks_them(gauges):
    restarts = [Restart(1, 0, 1.0, "")] * 2
    RayTracker().open(replace(RUN, first_step=1, restarts=restarts))
    assert gauges.values == {("cost_aware_rl_loop_restarts", "test"): 2.0}
    (mark,) = grafana()["annotations"]["list"]
    name = prometheus_name("loop/restarts")
    assert mark["expr"] == (f'({name}{{run=~"$run"}} > 0) unless ({name}{{run=~"$run"}} offset 1m)')


def test_the_tracker_wants_a_cluster(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"tracker\.ray needs a Ray cluster .* ~tracker\.ray"):
        RayTracker().open(RUN)
