"""Write the files for Grafana and Prometheus: `python -m launch.dashboard out=DIR`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.programs import DashboardConfig, register
from launch.cli.refusals import reading
from launch.program import build, run_program, start
from launch.record.dashboard.files import discovery_file, write

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="dashboard")
def main(composed: DictConfig) -> None:
    """Write as configured and print the paths."""

    def program() -> None:
        config: DashboardConfig = build(composed)
        with reading("out must be a folder that can be written; choose another", config.out):
            paths = list(write(Path(config.out), config.discovery or discovery_file()))
        for path in paths:
            print(path)

    run_program(program)


if __name__ == "__main__":
    start(main)
