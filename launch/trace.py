"""Show where the time of a run went: `python -m launch.trace RUN [--step N] [--out FILE]`.

run folder -> launch.record.trace -> a Chrome trace, to open in ui.perfetto.dev
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.program import UserError, run_program
from launch.record.trace import read_records, step_slices, trace


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line: `run`, `step`, `out`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.trace",
        description="A Chrome trace of a run's steps, to open in ui.perfetto.dev.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of launch.train")
    parser.add_argument("--step", type=int, help="this step alone [all]")
    parser.add_argument("--out", type=Path, help="new JSON file [RUN/trace.json, trace-STEP.json]")
    parsed = parser.parse_args(arguments)
    if parsed.out is None:
        part = "" if parsed.step is None else f"-{parsed.step}"
        parsed.out = parsed.run / f"trace{part}.json"
    return parsed


def run(parsed: argparse.Namespace) -> None:
    """Read the run and write the trace.

    Raises:
        UserError: If the run cannot be read, has no such step, or the file exists or cannot be
            written.
    """
    records = read_records(parsed.run)
    slices = step_slices(records)
    if parsed.step is not None:
        slices = [found for found in slices if found.step == parsed.step]
        if not slices:
            raise UserError(
                f"--step must be a step of the run, {records[0]['step']} to "
                f"{records[-1]['step']}, got {parsed.step}"
            )
    if os.path.lexists(parsed.out):
        raise UserError(
            f"--out must be a new file, got {str(parsed.out)!r}, which exists; choose another"
        )
    content = json.dumps(trace(slices, parsed.run.resolve().name), allow_nan=False)
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        with parsed.out.open("x", encoding="utf-8") as file:
            file.write(content + "\n")
    except OSError as error:
        raise UserError(
            f"--out must be writable, got {str(parsed.out)!r}: {error.strerror}"
        ) from error
    num_steps = len({found.step for found in slices})
    print(f"{parsed.out} ({num_steps} steps; open it in https://ui.perfetto.dev)")


def main() -> None:
    """Run as the command line says."""
    parsed = parse(sys.argv[1:])
    run_program(lambda: run(parsed))


if __name__ == "__main__":
    main()
