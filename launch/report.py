"""Make a page of one or more runs: `python -m launch.report RUN... [out=FILE]`.

    run folders -> read_runs -> sections of charts -> page -> one HTML file

The page works without a network. Several runs are laid over each other.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.programs import ReportConfig, register
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(composed: DictConfig) -> None:
    """Write the page as configured."""

    def program() -> None:
        from launch.record.report.page import write_page

        config: ReportConfig = build(composed)
        out = None if config.out is None else Path(config.out)
        path = write_page([Path(folder) for folder in config.runs], out)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")

    run_program(program)


if __name__ == "__main__":
    start(main, words="runs")
