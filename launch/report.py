"""Make a page of one or more runs: `python -m launch.report RUN... [--out FILE]`.

    run folders -> read_run -> sections of charts -> page -> one HTML file

The page works without a network. Several runs are laid over each other.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.program import UserError, run_program
from launch.record.report.runs import read_runs


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line: `runs`, `out`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.report",
        description="One self-contained interactive HTML page of one or more training runs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of launch.train")
    parser.add_argument(
        "--out",
        type=Path,
        help="new HTML file [RUN/report.html; of several runs runs/report-TIME.html]",
    )
    parsed = parser.parse_args(arguments)
    if parsed.out is None:
        several = len(parsed.runs) > 1
        name = f"runs/report-{time.strftime('%Y%m%d-%H%M%S')}.html"
        parsed.out = Path(name) if several else parsed.runs[0] / "report.html"
    return parsed


def run(parsed: argparse.Namespace) -> None:
    """Read the runs and write the page.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    from launch.record.report.page import page_html

    # A missing run is named before the place of its report, which may lie in it.
    runs = read_runs(parsed.runs)
    if os.path.lexists(parsed.out):
        raise UserError(
            f"--out must be a new file, got {str(parsed.out)!r}, which exists; choose another"
        )
    # Model output may hold half a surrogate pair, which no file can.
    content = page_html(runs).encode("utf-8", errors="replace")
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        with parsed.out.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(
            f"--out must be writable, got {str(parsed.out)!r}: {error.strerror}"
        ) from error
    print(f"{parsed.out} ({len(content) / 1e6:.1f} MB)")


def main() -> None:
    """Run as the command line says."""
    parsed = parse(sys.argv[1:])
    run_program(lambda: run(parsed))


if __name__ == "__main__":
    main()
