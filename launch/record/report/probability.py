"""Where the scheduler's probability went, by expected length and pass rate."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cost.draws.distribution import LENGTH_CELLS_PER_DOUBLING, NUM_PASS_RATE_CELLS
from cost.types import FloatArray
from launch.record.picture import BLUE, GREY, ORANGE
from launch.record.report.chart import MOST_BLOCKS, Chart, empty_figure, marks, rounded, spread
from launch.record.report.runs import Run
from launch.record.run_folder import StepCells

MOST_MAPS = 40


def without_cells(runs: Sequence[Run]) -> str:
    """Return a sentence on the runs that have no charts here; empty if all have."""
    names = [escape(run.name) for run in runs if not run.cells]
    return f" Not recorded (no cells.jsonl): {', '.join(names)}." if names else ""


def probability_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return a map and two heat maps for each run that recorded its cells."""
    charts: list[Chart] = []
    for index, run in enumerate(runs):
        if not run.cells:
            continue
        of_run = f": {run.name}" if len(runs) > 1 else ""
        maps = [run.cells[at] for at in spread(len(run.cells), MOST_MAPS)]
        many = [run.cells[at] for at in spread(len(run.cells), MOST_BLOCKS)]
        of_all = marks(runs, "step")["marks"]
        marked = {"marks": [mark | {"colour": GREY} for mark in of_all if mark["run"] == index]}
        charts += [
            Chart(
                f"map_{index}",
                f"Prompts by length and pass rate{of_run}",
                "Area: share of the draws. Colour: that share over the share of prompts; grey is "
                "uniform, orange is drawn more often. Move the slider for other steps.",
                _map(maps, index, wide=len(runs) == 1),
                wide=len(runs) == 1,
            ),
            Chart(
                f"mass_length_{index}",
                f"By expected length{of_run}",
                "Share of the draws by expected response length.",
                _mass_over_time(many, index, by_length=True).update_layout(meta=marked),
            ),
            Chart(
                f"mass_rate_{index}",
                f"By expected pass rate{of_run}",
                "Share of the draws by expected pass rate.",
                _mass_over_time(many, index, by_length=False).update_layout(meta=marked),
            ),
        ]
    return charts


def _map(cells: Sequence[StepCells], index: int, *, wide: bool) -> go.Figure:
    """Bubbles over length and pass rate, with a slider over steps."""
    multiples = [_multiples(each) for each in cells]
    positive = np.concatenate([values[values > 0] for values in multiples])
    # Symmetric about uniform, so that the colour tells more from less at a glance.
    reach = max(math.log2(1.25), float(np.quantile(np.abs(np.log2(positive)), 0.99)))
    frames = [_bubbles(each, values, reach) for each, values in zip(cells, multiples, strict=True)]
    figure = empty_figure("expected pass rate")
    figure.add_trace(_bubble_trace(frames[-1], reach).update(meta={"run": index}))
    figure.update_layout(
        hovermode="closest",
        height=440 if wide else 360,
        margin={"t": 16, "b": 130},
        sliders=[_slider([each.step for each in cells], frames)],
    )
    lengths = np.concatenate([each.length_cells for each in cells])
    low, high = int(lengths.min()), int(lengths.max()) + 1
    span = range(low, high + 1, max(1, math.ceil((high - low) / 10)))
    figure.update_xaxes(
        title_text="expected response length, tokens",
        type="log",
        tickvals=[_length_edge(cell) for cell in span],
        ticktext=[f"{_length_edge(cell):.0f}" for cell in span],
        range=[math.log10(_length_edge(low - 0.5)), math.log10(_length_edge(high + 0.5))],
    )
    figure.update_yaxes(range=[-0.06, 1.06], tickformat=".0%")
    return figure


def _bubble_trace(frame: Mapping[str, list[Any]], reach: float) -> go.Scatter:
    """The bubbles of one step; colours end `reach` doublings from uniform."""
    ticks = np.linspace(-reach, reach, 5)
    marker = {
        "size": frame["size"],
        "sizemode": "area",
        # A cell with a quarter of all draws gets a bubble of 44 pixels.
        "sizeref": 0.25 / 44**2,
        "sizemin": 2,
        "color": frame["color"],
        "cmin": -reach,
        "cmax": reach,
        "colorscale": [[0, BLUE], [0.5, "#b4b8be"], [1, ORANGE]],
        "line": {"color": "rgba(128, 128, 128, 0.9)", "width": 0.6},
        "opacity": 0.92,
        "colorbar": {
            "title": {"text": "x uniform", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "tickvals": ticks,
            "ticktext": [f"{2**tick:.2g}x" for tick in ticks],
        },
    }
    return go.Scatter(
        x=frame["x"],
        y=frame["y"],
        customdata=frame["customdata"],
        mode="markers",
        marker=marker,
        hovertemplate=(
            "length %{customdata[0]}, pass rate %{customdata[1]}<br>"
            "%{customdata[2]} of the draws, %{customdata[3]} of the prompts"
            " (%{customdata[4]})<extra></extra>"
        ),
    )


def _slider(steps: Sequence[int], frames: Sequence[Mapping[str, list[Any]]]) -> dict[str, Any]:
    """What puts another step's bubbles in place; the last step's are there at first."""

    def change(step: int, frame: Mapping[str, list[Any]]) -> dict[str, Any]:
        of_marker = {f"marker.{key}": [frame[key]] for key in ("size", "color")}
        of_trace = {key: [frame[key]] for key in ("x", "y", "customdata")}
        return {"label": str(step), "method": "restyle", "args": [of_trace | of_marker]}

    return {
        "active": len(frames) - 1,
        "currentvalue": {"prefix": "after step ", "xanchor": "right", "offset": 6},
        "pad": {"t": 56},
        "steps": [change(step, frame) for step, frame in zip(steps, frames, strict=True)],
    }


def _bubbles(cells: StepCells, multiples: FloatArray, reach: float) -> dict[str, list[Any]]:
    total = cells.num_prompts.sum()
    return {
        "x": rounded(_length_edge(cells.length_cells + 0.5)),
        "y": rounded((cells.pass_rate_cells + 0.5) / NUM_PASS_RATE_CELLS),
        "size": rounded(cells.probabilities),
        "color": rounded(np.clip(np.log2(np.maximum(multiples, 2.0**-20)), -reach, reach)),
        "customdata": [
            [
                _length_label(length),
                _rate_label(rate),
                f"{probability:.1%}",
                f"{count / total:.1%}",
                f"{multiple:.2f}x uniform, {count} prompts",
            ]
            for length, rate, probability, count, multiple in zip(
                cells.length_cells,
                cells.pass_rate_cells,
                cells.probabilities,
                cells.num_prompts,
                multiples,
                strict=True,
            )
        ],
    }


def _mass_over_time(cells: Sequence[StepCells], index: int, *, by_length: bool) -> go.Figure:
    """Share of the draws in each cell of one dimension, over steps."""
    if by_length:
        chosen = [each.length_cells for each in cells]
        rows = np.arange(min(c.min() for c in chosen), max(c.max() for c in chosen) + 1)
        labels = [_length_label(row) for row in rows]
    else:
        chosen = [each.pass_rate_cells for each in cells]
        rows = np.arange(NUM_PASS_RATE_CELLS)
        labels = [_rate_label(row) for row in rows]
    mass, prompts = np.zeros((2, len(rows), len(cells)))
    for at, (each, where) in enumerate(zip(cells, chosen, strict=True)):
        np.add.at(mass[:, at], where - rows[0], each.probabilities)
        np.add.at(prompts[:, at], where - rows[0], each.num_prompts / each.num_prompts.sum())
    figure = empty_figure("tokens" if by_length else "pass rate")
    figure.add_trace(
        go.Heatmap(
            x=[each.step for each in cells],
            y=labels,
            z=np.round(mass, 4),
            customdata=np.round(prompts, 4),
            zmin=0,
            colorscale=[[0, "rgba(53, 102, 168, 0)"], [1, BLUE]],
            colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
            hovertemplate=(
                "step %{x}, %{y}: %{z:.1%} of the draws, %{customdata:.1%} of the prompts"
                "<extra></extra>"
            ),
            meta={"run": index},
        )
    )
    figure.update_layout(hovermode="closest", margin={"t": 16})
    figure.update_xaxes(title_text="step", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def _multiples(cells: StepCells) -> FloatArray:
    shares: FloatArray = cells.num_prompts / cells.num_prompts.sum()
    return cells.probabilities / shares


def _length_edge(cell: np.ndarray | float | np.signedinteger[Any]) -> FloatArray:
    edge: FloatArray = 2.0 ** (np.asarray(cell) / LENGTH_CELLS_PER_DOUBLING)
    return edge


def _length_label(cell: int | np.signedinteger[Any]) -> str:
    low, high = math.ceil(_length_edge(cell)), math.ceil(_length_edge(cell + 1))
    return f"{low}" if high - low <= 1 else f"{low}-{high - 1}"


def _rate_label(cell: int | np.signedinteger[Any]) -> str:
    return f"{10 * cell:.0f}-{10 * (cell + 1):.0f}%"
