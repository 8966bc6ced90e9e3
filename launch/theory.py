"""Hold the theory against measurement: `python -m launch.theory [seeds=N] [quick=true] [out=DIR]`.

Logistic regression on data that scikit-learn ships, with unequal costs: cost-aware sampling against
uniform, norm-only and cost-only sampling. Prints tables, writes theory.json and theory.png.
"""

import json
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from conf.programs import register
from conf.studies import TheoryConfig
from launch.cli.refusals import UserError
from launch.program import build, run_program, start

WIDTH = 150
"""Columns of the tables where stdout is not a terminal."""
register()


def run(config: TheoryConfig) -> None:
    """Measure, print and write.

    Raises:
        UserError: If the folder cannot be used or scikit-learn is missing.
    """
    from launch.record.counter import Counter
    from launch.study.theory.findings import investigate
    from launch.study.theory.picture import draw_theory
    from launch.study.theory.problems import load_cases
    from launch.study.theory.tables import tables, verdict

    out = Path(config.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"out must be a new or empty folder, got {config.out!r}; choose another")
    cases = load_cases(quick=config.quick)
    with Counter("theory", len(cases), console=Console(stderr=True)) as counter:
        found = investigate(cases, config.seeds, counter.to)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for table in tables(found):
        console.print(table)
        console.print()
    for line in verdict(found.comparisons):
        console.print(line)
    try:
        out.mkdir(parents=True, exist_ok=True)
        content = json.dumps(found.to_json(), indent=2) + "\n"
        (out / "theory.json").write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out must be writable, got {config.out!r}: {error.strerror}") from error
    draw_theory(found.comparisons, out / "theory.png", num_seeds=found.seeds)
    console.print(
        f"{found.seconds:.0f} s; theory.json and theory.png are in {out}", style="dim", markup=False
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="theory")
def main(composed: DictConfig) -> None:
    """Measure as configured."""
    run_program(lambda: run(build(composed)))


if __name__ == "__main__":
    start(main)
