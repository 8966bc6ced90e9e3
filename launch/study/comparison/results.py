"""What the finished runs of a comparison left, and what is written about them.

run folders -> results_of -> find -> comparison.json, comparison.html, the console
"""

import math
from pathlib import Path

from rich.console import Console

from conf.programs import CompareConfig
from launch.record.atomic_files import write_atomically
from launch.record.json_file import write_json
from launch.record.notices import Unwritten
from launch.record.run_folder import metric_columns, read_steps
from launch.study.comparison.curves import NEEDED, curve_of
from launch.study.comparison.findings import find
from launch.study.comparison.plan import PlannedRun, or_move_away
from launch.study.comparison.rendering import comparison_json, sentences, table
from launch.study.comparison.runs import FinishedRun


def results_of(planned: list[PlannedRun]) -> dict[str, dict[int, FinishedRun]]:
    """Collect the finished runs by arm and seed.

    Raises:
        UserError: If a run's metrics are not all there.
    """
    summaries = {(run.arm, run.seed): run.summary() for run in planned}
    # Every run of a seed starts from one policy; the first arm's run measured it.
    starts = {
        seed: summary["pass_rate_before"]
        for (_, seed), summary in summaries.items()
        if summary is not None and summary.get("pass_rate_before") is not None
    }
    found: dict[str, dict[int, FinishedRun]] = {}
    for run in planned:
        summary = summaries[run.arm, run.seed]
        if summary is None:
            continue
        with or_move_away():
            steps = read_steps(run.run_dir, in_some=NEEDED, at_least=summary["num_steps"])
        start, target = starts.get(run.seed, math.nan), run.composed.evaluation.target
        curve = curve_of(metric_columns(steps), summary, start, target)
        found.setdefault(run.arm, {})[run.seed] = FinishedRun(summary, curve)
    return found


def report(config: CompareConfig, planned: list[PlannedRun], folder: Path) -> None:
    """Print the table and what it shows; write `comparison.json` and `comparison.html`."""
    from launch.study.comparison.page import page

    evaluation = planned[0].composed.evaluation
    stale = any(run.composed.loop.max_staleness > 0 for run in planned)
    found = find(
        config.name,
        config.budget,
        results_of(planned),
        int(evaluation.num_samples),
        background=bool(evaluation.background),
        in_flight=stale and bool(evaluation.every) and not evaluation.background,
        target=evaluation.target,
    )
    # Wide enough for every column, also where the output goes to a file.
    console = Console(width=170)
    console.print(table(found))
    for line in [*sentences(found), *found.notes]:
        console.print(line, markup=False, highlight=False)
    unwritten = Unwritten()
    with unwritten.noted("comparison.json"):
        write_json(folder / "comparison.json", comparison_json(found))
    with unwritten.noted("comparison.html"):
        write_atomically(folder / "comparison.html", [page(found).encode()])
    unwritten.check("the table has the results, and the same command writes them anew")
    console.print(f"files: {folder / 'comparison.html'}, comparison.json", markup=False)
