"""Make a page of one or more runs: `python -m launch.report RUN... [out=FILE]`.

    run folders -> read_run -> sections of charts -> page -> one HTML file

The page works without a network. Several runs are laid over each other.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.programs import ReportConfig, register
from launch.program import UserError, build, run_program, start
from launch.record.run_folder import read_runs

register()


def run(folders: Sequence[Path], out: Path | None = None) -> None:
    """Read the runs and write the page.

    Args:
        folders: Run folders, at least one.
        out: A new file; None takes report.html in the run's folder, of several runs a name in runs.

    Raises:
        UserError: If a run cannot be read, the file exists or cannot be written, or plotly is
            missing.
    """
    if out is None:
        several = Path(f"runs/report-{time.strftime('%Y%m%d-%H%M%S')}.html")
        out = folders[0] / "report.html" if len(folders) == 1 else several
    # A missing run is named before the place of its report, which may lie in it.
    runs = read_runs(folders)
    if os.path.lexists(out):
        raise UserError(f"out must be a new file, got {str(out)!r}, which exists; choose another")
    try:
        from launch.record.report.page import page_html
    except ModuleNotFoundError as error:
        if error.name != "plotly":
            raise
        raise UserError(
            "launch.report needs plotly, which is not installed; "
            'install it with `pip install -e ".[report]"`'
        ) from error
    # Model output may hold half a surrogate pair, which no file can.
    content = page_html(runs).encode("utf-8", errors="replace")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"out must be writable, got {str(out)!r}: {error.strerror}") from error
    print(f"{out} ({len(content) / 1e6:.1f} MB)")


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(composed: DictConfig) -> None:
    """Make the page as configured."""

    def program() -> None:
        config: ReportConfig = build(composed)
        out = None if config.out is None else Path(config.out)
        run([Path(folder) for folder in config.runs], out)

    run_program(program)


if __name__ == "__main__":
    start(main, words="runs")
