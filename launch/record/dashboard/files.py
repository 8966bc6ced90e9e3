"""The files for Grafana and Prometheus, made from `panels`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from launch.record.dashboard.names import RUN_TAG, prometheus_name
from launch.record.dashboard.panels import PANELS, Panel

DISCOVERY = "prom_metrics_service_discovery.json"
SCRAPE_SECONDS = 5
"""Ray's metrics agent takes in new values about as often."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GRID_COLUMNS = 24
_WIDTH, _HEIGHT = 8, 7


def grafana() -> dict[str, Any]:
    """Make a Grafana dashboard of `PANELS`, three in a row.

    Data source and runs are chosen in it.
    """
    return {
        "uid": "cost-aware-rl",
        "title": "cost-aware-rl",
        "tags": ["ray", "reinforcement-learning"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": f"{SCRAPE_SECONDS}s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), _runs()]},
        "annotations": {"list": [_restarts()]},
        "panels": [_panel(index, panel) for index, panel in enumerate(PANELS)],
    }


def _data_source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _runs() -> dict[str, Any]:
    names = f"label_values({prometheus_name('loop/update_seconds')}, {RUN_TAG})"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": names, "refId": "runs"},
        "definition": names,
        # On every change of the time range: runs come and go.
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _restarts() -> dict[str, Any]:
    restarts = f'{prometheus_name("loop/restarts")}{{{RUN_TAG}=~"$run"}}'
    return {
        "name": "Restarts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        # Every start is a process of its own, and so a series of its own: new for a minute.
        "expr": f"({restarts} > 0) unless ({restarts} offset 1m)",
        "step": "60s",
        "titleFormat": f"{{{{{RUN_TAG}}}}} went on after a stop",
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    per_row = _GRID_COLUMNS // _WIDTH
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {
            "x": index % per_row * _WIDTH,
            "y": index // per_row * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {"lineWidth": 2, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": query.expression("$run"),
                "legendFormat": f"{{{{{RUN_TAG}}}}}: {query.legend}",
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def discovery_file(environ: Mapping[str, str] = os.environ) -> str:
    """Return where Ray lists what to scrape: its temporary folder, of RAY_TMPDIR if that is set.

    A head started with `ray start --temp-dir=DIR` writes it into DIR, which only `discovery` knows.
    """
    return str(Path(environ.get("RAY_TMPDIR") or "/tmp") / "ray" / DISCOVERY)


def prometheus(discovery: str) -> dict[str, Any]:
    """Make a Prometheus configuration that scrapes every node of a Ray cluster.

    Args:
        discovery: The file with the nodes' addresses that Ray keeps, as Prometheus sees it.
    """
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [discovery], "refresh_interval": "5s"}],
            }
        ],
    }


def texts(discovery: str) -> dict[str, str]:
    """Return the content of every file by its name."""
    return {
        "grafana.json": json.dumps(grafana(), indent=2) + "\n",
        "prometheus.yml": OmegaConf.to_yaml(OmegaConf.create(prometheus(discovery))),
    }


def write(folder: Path, discovery: str) -> list[Path]:
    """Write every file into a folder, which is made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts(discovery).items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
