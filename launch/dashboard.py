"""Write the files for Grafana and Prometheus: `python -m launch.dashboard --out DIR`."""

import argparse
from pathlib import Path

from launch.record.dashboard.files import DISCOVERY, write


def main() -> None:
    """Write as asked and print the paths."""
    parser = argparse.ArgumentParser(prog="python -m launch.dashboard", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument(
        "--discovery",
        default=DISCOVERY,
        help="file in which Ray lists what to scrape, as Prometheus sees it (default: %(default)s)",
    )
    arguments = parser.parse_args()
    for path in write(arguments.out, arguments.discovery):
        print(path)


if __name__ == "__main__":
    main()
