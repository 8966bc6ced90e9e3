"""The program writes both files and asks where to."""

import json

from omegaconf import OmegaConf

from launch.record.dashboard.files import discovery_file, grafana, prometheus
from tests.launch.programs import call


def test_the_command_writes_both_files(tmp_path):
    out = tmp_path / "new"
    done = call("launch.dashboard", f"out={out}", "discovery=/elsewhere/nodes.json")
    assert done.out.split() == [str(out / "grafana.json"), str(out / "prometheus.yml")]
    assert json.loads((out / "grafana.json").read_text()) == grafana()
    written = OmegaConf.to_container(OmegaConf.load(out / "prometheus.yml"))
    assert written == prometheus("/elsewhere/nodes.json")


def test_a_folder_must_be_named():
    done = call("launch.dashboard")
    assert (done.status, done.err) == (2, "error: out must be set, got ???\n")


def test_discovery_follows_rays_temporary_folder():
    assert discovery_file({}) == "/tmp/ray/prom_metrics_service_discovery.json"
    assert discovery_file({"RAY_TMPDIR": "/big"}) == "/big/ray/prom_metrics_service_discovery.json"
