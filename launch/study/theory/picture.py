"""One picture of predictions and measurements: theory.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.record.picture import BLUE, GREEN, ORANGE, STYLE
from launch.study.theory.experiments import Comparison, Interval
from launch.study.theory.runs import POISSON

INK = "#30343a"
GAP = 0.8
"""Rows of space between cost cases."""
TOP_INCHES = 0.85
"""Room for title and legend."""
OFFSET = 0.22
"""Rows by which two measurements of one prediction stand apart."""


def draw_theory(comparisons: Sequence[Comparison], path: Path, *, num_seeds: int) -> None:
    """Draw ratios with intervals beside their predictions, one column a baseline.

    Args:
        comparisons: From `launch.study.theory.experiments.compare`, of all cases.
        path: The PNG to write.
        num_seeds: Named in the title.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    baselines = [
        name for name in dict.fromkeys(each.baseline for each in comparisons) if name != POISSON
    ]
    places, groups = _places(comparisons)
    height = 2.4 + 2 * (0.27 * (max(places.values()) + 1) + 0.5)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(13.5, height),
            layout=ConstrainedLayoutEngine(
                h_pad=0.1, w_pad=0.06, rect=(0, 0, 1, 1 - TOP_INCHES / height)
            ),
        )
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, len(baselines), sharex="row", sharey=True, squeeze=False)
        for column, baseline in enumerate(baselines):
            chosen = [each for each in comparisons if each.baseline == baseline]
            _cost_panel(panels[0, column], chosen, places)
            _variance_panel(panels[1, column], chosen, places)
            panels[0, column].set_title(f"over {baseline} sampling")
        for axes in panels[:, 0]:
            _label_rows(axes, places, groups)
        panels[0, 0].set_ylabel("cost to epsilon", weight="bold", labelpad=10)
        panels[1, 0].set_ylabel("cost x variance, at optimum", weight="bold", labelpad=10)
        for row in panels:
            reach = max(axes.get_xlim()[1] for axes in row)
            row[0].set_xlim(0, reach)  # shared by the row
        for axes in panels.flat:
            axes.tick_params(axis="y", length=0)
            axes.set_xlabel("cost-aware / baseline (below 1: cheaper)")
        # Not a suptitle: the layout would make room for it a second time.
        figure.text(
            0.012, 1 - 0.12 / height, "Cost-aware sampling: theory and measurement", va="top",
            fontsize=15, weight="bold",
        )  # fmt: skip
        figure.legend(
            *_legend(panels[0, 0], panels[1, 0]),
            loc="upper left",
            bbox_to_anchor=(0.005, 1 - 0.45 / height),
            ncols=4,
            fontsize=9.5,
        )
        figure.text(
            0.995, 1 - 0.2 / height, f"{num_seeds} seeds, bars: 95% intervals", ha="right",
            va="top", color="#50555e",
        )  # fmt: skip
        figure.savefig(path, dpi=130, format="png")


def _places(comparisons: Sequence[Comparison]) -> tuple[dict[tuple[str, str], float], list[str]]:
    """Return the row of each (cost case, data), cost case by cost case from the top."""
    groups = list(dict.fromkeys(each.cost_case for each in comparisons))
    names = list(dict.fromkeys(each.data for each in comparisons))
    size = len(names) + 1 + GAP
    places = {
        (group, name): g * size + 1 + n
        for g, group in enumerate(groups)
        for n, name in enumerate(names)
    }
    return places, groups


def _label_rows(axes: Any, places: dict[tuple[str, str], float], groups: Sequence[str]) -> None:
    axes.set_yticks(list(places.values()), labels=[name for _, name in places])
    axes.set_ylim(max(places.values()) + 0.8, -0.6)
    for group in groups:
        top = min(place for (name, _), place in places.items() if name == group) - 1
        axes.text(
            -0.02, top, f"costs {group}", transform=axes.get_yaxis_transform(), ha="right",
            va="center", style="italic", color="#50555e",
        )  # fmt: skip


def _cost_panel(
    axes: Any, comparisons: Sequence[Comparison], places: dict[tuple[str, str], float]
) -> None:
    rows = [places[each.cost_case, each.data] for each in comparisons]
    tuned = [each.tuned for each in comparisons if each.tuned]
    _bars(
        axes,
        [each.bound for each in comparisons],
        rows,
        -OFFSET,
        BLUE,
        "cost to epsilon at the bound's step",
    )
    _bars(axes, tuned, rows, OFFSET, ORANGE, "cost at each rule's best step")
    _predictions(axes, [each.predicted for each in comparisons], rows)


def _variance_panel(
    axes: Any, comparisons: Sequence[Comparison], places: dict[tuple[str, str], float]
) -> None:
    rows = [places[each.cost_case, each.data] for each in comparisons]
    _bars(
        axes,
        [each.variance for each in comparisons],
        rows,
        0,
        GREEN,
        "cost x variance of drawn estimates",
    )
    _predictions(axes, [each.variance_predicted for each in comparisons], rows)


def _bars(
    axes: Any, found: Sequence[Interval], rows: Sequence[float], offset: float, colour: str,
    label: str,
) -> None:  # fmt: skip
    ratios = [each.ratio for each in found]
    axes.errorbar(
        ratios,
        [row + offset for row in rows],
        xerr=[
            [each.ratio - each.low for each in found],
            [each.high - each.ratio for each in found],
        ],
        fmt="o",
        color=colour,
        markersize=5,
        capsize=3,
        linewidth=1.4,
        label=label,
    )


def _predictions(axes: Any, ratios: Sequence[float], rows: Sequence[float]) -> None:
    axes.vlines(
        ratios,
        [row - 0.42 for row in rows],
        [row + 0.42 for row in rows],
        color=INK,
        linewidth=2.2,
        label="predicted",
        zorder=1.5,
    )
    axes.axvline(1.0, color="#8a8f98", linewidth=1, linestyle="--", zorder=1)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _legend(top: Any, bottom: Any) -> tuple[list[Any], list[str]]:
    pairs = dict[str, Any]()
    for axes in (top, bottom):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            pairs.setdefault(label, handle)
    return list(pairs.values()), list(pairs)
