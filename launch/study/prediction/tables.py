"""What a study of predictions found, laid out for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.record.formatting import number_text

QUALITY = {
    "pass_rate_r2": "R^2 of\npass rate",
    "mixed_r2": "of mixed\nchance",
    "mixed_at_mean_r2": "the same\nat the mean",
    "mixed_calibration": "error of\nchance",
    "mixed_at_mean_calibration": "the same\nat the mean",
}
MIN_WIDTH = 136
"""Characters that the wider table takes."""
METRICS = {"plain": "the plain metric", "adam": "Adam's metric"}
DRAWS = {
    "draws": "draws,\nuniform = 1",
    "draws_to_epoch": "draws,\nepoch = 1",
    "passes_to_epoch": "passes,\nepoch = 1",
}


def print_tables(report: Mapping[str, Any]) -> None:
    """Print how well prompts are known, and what draws cost by what is known."""
    console = Console(width=max(Console().width, MIN_WIDTH))
    console.print(
        f"{report['model']} on {report['task']}: {report['responses']} responses to "
        f"{report['prompts']} prompts, pass rate {report['pass_rate']:.2f}. "
        "Figures are after 0 / 1 / 2 visits."
    )
    console.print(_quality(report["by_features"]))
    for metric, name in METRICS.items():
        found = report["draws"][metric]
        console.print(
            f"Cost times noise of the gradient in {name}. Responses make "
            f"{number_text(found['variance_share'], 2)} of a group's second moment, the prompt's "
            f"own mean the rest. Draws that know it all: {number_text(found['oracle'], 2)} or more"
        )
        console.print(_draws(report["by_features"], metric))


def _quality(by_features: Mapping[str, Any]) -> Table:
    table = Table()
    for name in ("predictors read", *QUALITY.values()):
        table.add_column(name, no_wrap=True)
    for features, visits in by_features.items():
        table.add_row(features, *(_over_visits(visits, key) for key in QUALITY))
    return table


def _draws(by_features: Mapping[str, Any], metric: str) -> Table:
    table = Table()
    for name in ("predictors read", "utility", *DRAWS.values(), "mixed groups\ndrawn"):
        table.add_column(name, no_wrap=True)
    for features, visits in by_features.items():
        keys = [key for key in visits["0"] if "/" in key]
        for utility in dict.fromkeys(key.split("/")[0] for key in keys):
            figures = [_over_visits(visits, f"{utility}/{metric}/{key}") for key in DRAWS]
            drawn = _over_visits(visits, f"{utility}/mixed_drawn")
            table.add_row(features, utility, *figures, drawn)
    return table


def _over_visits(visits: Mapping[str, Any], key: str) -> str:
    return " / ".join(number_text(figures[key]["value"], 2) for figures in visits.values())
