"""What the finished runs of a comparison left, and what is written about them.

run folders -> results_of -> find -> comparison.json, comparison.html, the console
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from conf.programs import CompareConfig
from launch.record.json_file import write_json
from launch.record.run_folder import metric_columns, read_steps
from launch.record.told import Unwritten
from launch.record.whole import write_whole
from launch.study.comparison.curves import NEEDED, curve_of
from launch.study.comparison.findings import find
from launch.study.comparison.plan import PlannedRun, or_move_away
from launch.study.comparison.runs import FinishedRun
from launch.study.comparison.speedrun import Speed, speed_sentences, speeds
from launch.study.comparison.words import comparison_json, sentences, table


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


def _speedrun(target: float | None, raced: list[Speed]) -> dict[str, Any]:
    if target is None:
        return {}
    return {"target": target, "speedrun": [asdict(speed) for speed in raced]}


def report(config: CompareConfig, planned: list[PlannedRun], folder: Path) -> None:
    """Print the table and what it shows; write `comparison.json` and `comparison.html`."""
    from launch.study.comparison.page import page

    budget, k = config.budget, int(planned[0].composed.evaluation.num_samples)
    background = bool(planned[0].composed.evaluation.background)
    runs = results_of(planned)
    found = find(config.name, budget, runs, k, background=background)
    # Wide enough for every column, also where the output goes to a file.
    console = Console(width=170)
    console.print(table(found))
    target = planned[0].composed.evaluation.target
    raced = [] if target is None else speeds(found.curves)
    said = [] if target is None else speed_sentences(raced, target)
    for line in [*sentences(found), *said, *found.notes]:
        console.print(line, markup=False, highlight=False)
    unwritten = Unwritten()
    with unwritten.noted("comparison.json"):
        write_json(folder / "comparison.json", comparison_json(found) | _speedrun(target, raced))
    with unwritten.noted("comparison.html"):
        write_whole(folder / "comparison.html", [page(found).encode()])
    unwritten.check("the table has the results, and the same command writes them anew")
    console.print(f"files: {folder / 'comparison.html'}, comparison.json", markup=False)
