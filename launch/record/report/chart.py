"""What every chart of the page is made of.

Lines over steps carry no x: the page puts in steps, tokens or seconds, as its reader chooses, from
`axes`. What a trace belongs to is in its `meta`:

    run: number of its run
    x: "step" for one value a step, or places of its own on each axis
    raw: of values that are not smoothed

Where a run went on after a stop the page draws an upright line, from what `marks` put into the
figure's `meta`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cost.types import FloatArray
from launch.record.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from launch.record.report.runs import Run
from launch.record.smoothing import smoothed

RUN_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#1f9aa5", "#a3872a", "#c4609b", "#6b7f2a", GREY)
DASHES = ("solid", "dot", "dash")
MOST_RAW = 2
"""Number of runs up to which values are also drawn as they are, behind the smoothed ones."""
MOST_POINTS = 1500
MOST_BLOCKS = 400


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over steps."""

    key: str
    label: str
    colour: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart with its words; without a figure it was not recorded."""

    key: str
    """What the chart is called in the page's markup."""
    title: str
    note: str
    figure: go.Figure | None
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Charts that answer one question."""

    key: str
    title: str
    note: str
    charts: Sequence[Chart]


def run_colour(index: int) -> str:
    """Return the colour of a run; colours come round again after the tenth."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def axes(runs: Sequence[Run]) -> list[dict[str, list[float]]]:
    """Return by run what lines may be drawn over: `step`, `tokens` so far, `seconds`."""
    return [
        {key: rounded(values[shown_steps(len(run.steps))]) for key, values in axes_of(run).items()}
        for run in runs
    ]


def axes_of(run: Run) -> dict[str, FloatArray]:
    """Return what a run's lines may be drawn over, each [T], a value a step."""
    return {
        "step": run.steps,
        "tokens": run.metrics["cost/generated_tokens"],
        "seconds": run.ends,
    }


def marks(
    runs: Sequence[Run], axis: str | None = None, lanes: Mapping[int, Sequence[float]] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the `meta` of a figure that shows where each run went on after a stop.

    Args:
        runs: At least one.
        axis: The figure's x, a key of `axes_of`; None where the reader chooses it.
        lanes: By number of a run the part of y that is its own; None where all share all of it.
    """
    found = []
    for index, run in enumerate(runs):
        for at in run.restarted:
            places = {key: float(values[at - 1]) for key, values in axes_of(run).items()}
            # Between the last step before and the first one after.
            places["step"] = float(run.steps[at - 1] + run.steps[at]) / 2
            mark: dict[str, Any] = {"run": index, "x": places if axis is None else places[axis]}
            mark["colour"] = run_colour(index) if len(runs) > 1 else GREY
            found.append(mark | ({"y": list(lanes[index])} if lanes else {}))
    return {"marks": found}


def shown_steps(num_steps: int) -> np.ndarray:
    """Return the positions of the steps that lines show: all, or evenly spread with both ends."""
    return np.unique(np.linspace(0, num_steps - 1, min(num_steps, MOST_POINTS)).round().astype(int))


def lines(
    runs: Sequence[Run],
    series: Sequence[Series],
    unit: str,
    *,
    from_zero: bool = False,
    log: bool = False,
    steps: bool = False,
    smooth: bool = True,
    metrics: Sequence[Mapping[str, FloatArray]] | None = None,
) -> go.Figure | None:
    """Draw metrics over steps, as they are and smoothed.

    Args:
        runs: At least one.
        series: The metrics; with several runs they are told apart by dashes.
        unit: Of the y axis.
        from_zero: Whether the y axis begins at zero.
        log: Whether it is logarithmic; values that are not positive are left out.
        steps: Whether values are drawn as stairs, and not smoothed.
        smooth: Whether to smooth.
        metrics: By run and key [T], in place of the runs' own.

    Returns:
        The figure; None if no run has any of the metrics.
    """
    columns = [
        (index, number, each, of_run[each.key])
        for index, of_run in enumerate(metrics or [run.metrics for run in runs])
        for number, each in enumerate(series)
        if each.key in of_run and np.isfinite(of_run[each.key]).any()
    ]
    if not columns:
        return None
    figure = empty_figure(unit, log=log)
    smooth, several = smooth and not steps, len(runs) > 1
    if several and len(series) > 1:
        for number, each in enumerate(series):
            figure.add_trace(_legend_entry(each.label, DASHES[number % len(DASHES)]))
    for index, number, each, column in columns:
        values = np.where(column > 0, column, math.nan) if log else column
        colour = run_colour(index) if several else each.colour
        line = {"color": colour, "shape": "hv" if steps else "linear"}
        if several:
            line["dash"] = DASHES[number % len(DASHES)]
        if smooth and len(runs) <= MOST_RAW:
            pale = _pale_line(values, line, index)
            figure.add_trace(pale.update(opacity=0.18 if several else 0.3))
        strong = _strong_line(runs[index], values, line, index, smooth=smooth)
        name = trace_name(runs[index], each.label, several, len(series))
        figure.add_trace(strong.update(name=name, showlegend=not several and len(series) > 1))
    figure.update_layout(meta=marks(runs))
    if from_zero:
        figure.update_yaxes(rangemode="tozero")
    if steps:
        largest = max(float(np.nanmax(column)) for *_, column in columns)
        figure.update_yaxes(dtick=max(1, math.ceil(largest / 5)))
    return figure


def _pale_line(values: FloatArray, line: Mapping[str, str], index: int) -> go.Scatter:
    """Values as they are, behind the smoothed ones."""
    return go.Scatter(
        y=values[shown_steps(len(values))],
        mode="lines",
        line={**line, "width": 1},
        hoverinfo="skip",
        showlegend=False,
        meta={"run": index, "x": "step", "raw": True},
    )


def _strong_line(
    run: Run, values: FloatArray, line: Mapping[str, str], index: int, *, smooth: bool
) -> go.Scatter:
    """Values in front, smoothed or not; of a single step, a mark."""
    shown = shown_steps(len(values))
    x: str | dict[str, list[float]] = "step"
    known = np.flatnonzero(np.isfinite(values))
    # What few steps have would be missed between those that lines show.
    if not smooth and len(shown) < len(values) and len(known) <= MOST_POINTS:
        shown, x = known, {key: rounded(axis[known]) for key, axis in axes_of(run).items()}
    suffix = " (this step %{customdata:.4~g})" if smooth else ""
    return go.Scatter(
        y=(smoothed(values) if smooth else values)[shown],
        customdata=values[shown],
        mode="markers" if len(shown) == 1 else "lines",
        line={**line, "width": 2.2},
        marker={"color": line["color"]},
        hovertemplate=f"%{{y:.4~g}}{suffix}",
        meta={"run": index, "x": x},
    )


def empty_figure(unit: str, *, log: bool = False) -> go.Figure:
    """Lay out a figure in the page's style, its y axis in a unit."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=310,
        margin={"l": 50, "r": 14, "t": 40, "b": 46},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        hovermode="x unified",
        font={"size": 12},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "bgcolor": "rgba(0, 0, 0, 0)",
        },
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(title={"text": unit, "standoff": 10}, zeroline=False, automargin="left")
    if log:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure


def _legend_entry(label: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": GREY, "dash": dash, "width": 2.2},
        name=label,
        hoverinfo="skip",
    )


def trace_name(run: Run, label: str, several: bool, num_series: int) -> str:
    """Return what a trace is called, escaped, since plotly reads names as markup."""
    if not several:
        return escape(label)
    return escape(run.name) + (f", {escape(label)}" if num_series > 1 else "")


def spread(count: int, most: int) -> Iterator[int]:
    """Return positions of `count`, `most` at most, evenly spread with both ends."""
    return iter(np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist())


def rounded(values: FloatArray) -> list[float]:
    """Return the values to six digits, which are more than a screen shows."""
    return [float(f"{value:.6g}") for value in values]
