"""What the dashboard's queries need can really be scraped from Ray."""

import math
import re
import time
import urllib.request

import pytest
import ray

from conf.resources import ResourcesConfig
from launch.record.dashboard.names import prometheus_name
from launch.record.dashboard.panels import PANELS
from launch.record.dashboard.tracker import RayTracker
from launch.record.tracking import RunInfo
from launch.run.cluster import cluster

pytestmark = pytest.mark.system
DEADLINE_SECONDS = 300.0
KEYS = sorted({key for panel in PANELS for query in panel.queries for key in query.keys})


def scrape(address, names):
    """Values of these metrics by name and run."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    line = re.compile(r'^(\w+)\{[^}]*\brun="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)
    return {(name, run): float(value) for name, run, value in line.findall(text) if name in names}


def test_every_metric_of_the_panels_reaches_rays_metrics_port(tmp_path):
    names = [prometheus_name(key) for key in KEYS]
    expected = {}
    with cluster(ResourcesConfig()):
        # One process may make several runs, one after the other.
        for first, run in enumerate(("one", "two")):
            tracker = RayTracker().open(RunInfo(run, tmp_path, {}, 2))
            values = [float(first + index) for index in range(len(KEYS))]
            tracker.log(1, dict(zip(KEYS, values, strict=True)))
            tracker.log(2, dict.fromkeys(KEYS, math.nan))
            tracker.close({})
            expected |= {(name, run): x for name, x in zip(names, values, strict=True)}
        (node,) = ray.nodes()
        address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        deadline = time.monotonic() + DEADLINE_SECONDS
        found = {}
        while found != expected and time.monotonic() < deadline:
            time.sleep(1)
            found = scrape(address, names)
    assert found == expected
