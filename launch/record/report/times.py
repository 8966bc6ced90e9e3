"""What engines and learners did, second by second."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from cost.types import FloatArray
from launch.record.picture import BLUE, GREEN, ORANGE, PURPLE
from launch.record.report.chart import MOST_BLOCKS, Chart, Series, empty_figure, lines, marks
from launch.record.report.runs import Run
from launch.record.summary import TURNS

IDLE = "rgba(138, 143, 152, 0.45)"
KINDS = (
    ("generating", ORANGE),
    ("updating", BLUE),
    ("publishing", GREEN),
    ("between steps", PURPLE),
    ("idle", IDLE),
)
"""What bars of the timeline show, and their colours."""

Bars = tuple[FloatArray, FloatArray, list[str]]
"""Starts, seconds, labels."""


def time_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the timeline, the idle shares and the seconds of each phase."""
    longest = max(_block_size(len(run.steps)) for run in runs)
    blocks = f" Up to {longest} steps are drawn as one." if longest > 1 else ""
    return [
        Chart(
            "timeline",
            "Engines and learners",
            "Engines generate while any ticket is open; learners wait for a batch, update and "
            "publish. Where in a step the engines idled is not recorded: it is drawn at its end, "
            f"as it is where both take turns.{blocks}",
            _timeline(runs),
            wide=True,
        ),
        Chart(
            "idle",
            "Idle share of each step",
            "Of the seconds since the step before.",
            _idle(runs),
        ),
        Chart(
            "phases",
            "Seconds of each step",
            "Generating goes on beside the others.",
            lines(
                runs,
                [
                    Series("loop/generate_seconds", "generating", ORANGE),
                    Series("loop/update_seconds", "updating", BLUE),
                    Series("loop/publish_seconds", "publishing", GREEN),
                ],
                "seconds",
                from_zero=True,
            ),
        ),
    ]


def _timeline(runs: Sequence[Run]) -> go.Figure:
    """Two lanes a run: what engines and learners did, second by second."""
    figure = empty_figure("")
    for kind, colour in KINDS:
        entry = go.Bar(x=[None], y=[None], name=kind, marker=_fill(kind, colour), orientation="h")
        figure.add_trace(entry.update(legendgroup=kind))
    lanes: list[str] = []
    for index, run in enumerate(runs):
        prefix = f"{escape(run.name)} " if len(runs) > 1 else ""
        of_run = {True: f"{prefix}engines", False: f"{prefix}learners"}
        lanes += of_run.values()
        bars = timeline_bars(run)
        for kind, colour in KINDS:
            for is_engines, lane in of_run.items():
                of_lane = bars.get((is_engines, kind))
                if of_lane is not None:
                    trace = _bar_trace(lane, kind, colour, of_lane)
                    figure.add_trace(trace.update(meta={"run": index}))
    figure.update_layout(
        barmode="overlay",
        bargap=0.25,
        hovermode="closest",
        height=130 + 44 * len(lanes),
        margin={"l": 12},
    )
    longest = max(float(run.ends[-1]) for run in runs)
    # A run's lanes lie one below the other, the first run's on top.
    tops = {index: len(lanes) - 2 * index - 0.5 for index in range(len(runs))}
    own = {index: (top - 2, top) for index, top in tops.items()}
    figure.update_layout(meta=marks(runs, "seconds", own))
    figure.update_xaxes(
        title_text="seconds since the first step began", showgrid=False, range=[0, longest]
    )
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=lanes[::-1],
        automargin=True,
        fixedrange=True,
        showgrid=False,
    )
    return figure


def _bar_trace(lane: str, kind: str, colour: str, bars: Bars) -> go.Bar:
    """Everything of one kind in one lane."""
    starts, seconds, labels = bars
    return go.Bar(
        y=[lane] * len(starts),
        base=np.round(starts, 4),
        x=np.round(seconds, 4),
        customdata=labels,
        orientation="h",
        marker=_fill(kind, colour),
        legendgroup=kind,
        showlegend=False,
        hovertemplate=f"{kind} %{{x:.2f}} s, %{{customdata}}<extra></extra>",
    )


def _fill(kind: str, colour: str) -> dict[str, object]:
    if kind != "idle":
        return {"color": colour, "line": {"width": 0}}
    return {
        "color": "rgba(138, 143, 152, 0.12)",
        "line": {"width": 0},
        "pattern": {"shape": "/", "fgcolor": colour, "size": 6, "solidity": 0.35},
    }


def timeline_bars(run: Run) -> dict[tuple[bool, str], Bars]:
    """Return the bars of the timeline, by whether they are the engines' and by kind.

    Neighbouring steps are taken together where there are too many.
    """
    wait, update, publish = (np.nan_to_num(run.metrics[f"loop/{p}_seconds"]) for p in TURNS)
    ends = run.ends
    begins = ends - wait - update - publish
    before = np.concatenate([[min(begins[0], 0.0)], ends[:-1]])
    between = np.maximum(begins - before, 0.0)
    whole = wait + update + publish + between
    busy = np.minimum(np.nan_to_num(run.metrics["loop/generate_seconds"]), whole)
    size = _block_size(len(ends))
    firsts = np.arange(0, len(ends), size)
    last = np.minimum(firsts + size, len(ends)) - 1
    labels = [
        f"step {run.steps[a]:.0f}" + (f" to {run.steps[b]:.0f}" if b > a else "")
        for a, b in zip(firsts, last, strict=True)
    ]
    starts = ends[last] - np.add.reduceat(whole, firsts)
    bars: dict[tuple[bool, str], Bars] = {}
    lanes: tuple[tuple[bool, tuple[tuple[str, FloatArray], ...]], ...] = (
        (True, (("generating", busy), ("idle", whole - busy))),
        (
            False,
            (
                ("between steps", between),
                ("idle", wait),
                ("updating", update),
                ("publishing", publish),
            ),
        ),
    )
    for is_engines, kinds in lanes:
        at = starts
        for kind, seconds in kinds:
            summed = np.add.reduceat(seconds, firsts)
            seen = summed > 0
            if seen.any():
                shown = [label for label, keep in zip(labels, seen, strict=True) if keep]
                bars[is_engines, kind] = (at[seen], summed[seen], shown)
            at = at + summed
    return bars


def _idle(runs: Sequence[Run]) -> go.Figure | None:
    """Share of each step in which nothing was generated, and in which learners waited."""
    series = (
        Series("engines", "engines", ORANGE),
        Series("learners", "learners", BLUE),
    )
    shares: list[dict[str, FloatArray]] = []
    for run in runs:
        wait, update, publish = (np.nan_to_num(run.metrics[f"loop/{p}_seconds"]) for p in TURNS)
        whole = np.diff(run.ends, prepend=0.0)
        whole = np.maximum(whole, wait + update + publish)
        whole = np.where(whole > 0, whole, math.nan)
        busy = np.nan_to_num(run.metrics["loop/generate_seconds"])
        shares.append({"engines": np.clip(1 - busy / whole, 0, 1), "learners": wait / whole})
    figure = lines(runs, series, "share of the time", from_zero=True, metrics=shares)
    if figure is not None:
        figure.update_yaxes(tickformat=".0%")
    return figure


def _block_size(num_steps: int) -> int:
    return math.ceil(num_steps / MOST_BLOCKS)
