"""The charts of the page: runs -> sections of plotly figures."""

from collections.abc import Sequence

from launch.record.report.chart import Section
from launch.record.report.learning import learning_charts, optimizer_charts, token_charts
from launch.record.report.probability import probability_charts, without_cells
from launch.record.report.runs import Run
from launch.record.report.times import time_charts


def sections(runs: Sequence[Run]) -> list[Section]:
    """Return everything the page draws; what a reader wants first comes first."""
    return [
        Section("learning", "Learning", "", learning_charts(runs)),
        Section("optimizer", "Optimiser", "", optimizer_charts(runs)),
        Section(
            "tokens",
            "Tokens",
            "Selectable is what training on every usable response would take. The prompt is "
            "counted once for each response it is trained with.",
            token_charts(runs),
        ),
        Section(
            "probability",
            "Where probability went",
            "The chance that one draw of the next batch lands on prompts of a length and pass "
            f"rate, both as the scheduler expected them after each step.{without_cells(runs)}",
            probability_charts(runs),
        ),
        Section("time", "Time", "", time_charts(runs)),
    ]
