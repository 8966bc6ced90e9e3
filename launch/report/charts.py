"""The charts of the page: runs -> sections of plotly figures.

Lines over steps carry no x: the page puts in steps, tokens or seconds, as its reader chooses, from
`axes`. What a trace belongs to is in its `meta`:

    run: number of its run
    x: "step" for one value a step, or places of its own on each axis
    raw: of values that are not smoothed
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cost.distribution import LENGTH_CELLS_PER_DOUBLING, NUM_PASS_RATE_CELLS
from cost.types import FloatArray
from launch.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, smoothed
from launch.report.run_folder import PHASES, Run, StepCells

RUN_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#1f9aa5", "#a3872a", "#c4609b", "#6b7f2a", GREY)
DASHES = ("solid", "dot", "dash")
IDLE = "rgba(138, 143, 152, 0.45)"
MOST_RAW = 2
"""Runs up to which values are drawn as they are, behind the smoothed ones."""
MOST_POINTS = 1500
MOST_BLOCKS = 400
MOST_MAPS = 40
Z95 = 1.959963984540054
"""Standard errors on either side of a 95% interval."""


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
    """Identifier in the page."""
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
    """Colour of a run; they come round again after the tenth."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def axes(runs: Sequence[Run]) -> list[dict[str, list[float]]]:
    """What lines may be drawn over, by run: `step`, `tokens` generated so far, `seconds`."""
    return [
        {key: _rounded(values[shown_steps(len(run.steps))]) for key, values in _axes(run).items()}
        for run in runs
    ]


def _axes(run: Run) -> dict[str, FloatArray]:
    return {
        "step": run.steps,
        "tokens": run.metrics["cost/generated_tokens"],
        "seconds": run.ends,
    }


def shown_steps(num_steps: int) -> np.ndarray:
    """Positions of the steps that lines show: all, or evenly spread with both ends."""
    return np.unique(np.linspace(0, num_steps - 1, min(num_steps, MOST_POINTS)).round().astype(int))


def sections(runs: Sequence[Run]) -> list[Section]:
    """Everything the page draws, what a reader wants first coming first."""
    return [
        Section("learning", "Learning", "", _learning(runs)),
        Section(
            "tokens",
            "Tokens",
            "Selectable is what training on every usable response would take. The prompt is "
            "counted once for each response it is trained with.",
            _tokens(runs),
        ),
        Section(
            "probability",
            "Where probability went",
            "The chance that one draw of the next batch lands on prompts of a length and pass "
            f"rate, both as the scheduler expected them after each step.{_without_cells(runs)}",
            _probability(runs),
        ),
        Section("time", "Time", "", _time(runs)),
    ]


def _learning(runs: Sequence[Run]) -> list[Chart]:
    rate = Series("rollout/pass_rate", "while training", BLUE)
    reward = (
        Series("rollout/reward_mean", "as drawn", ORANGE),
        Series("cost/reward_mean_uniform", "as under uniform draws", BLUE),
    )
    lengths = (
        Series("rollout/length_mean_tokens", "mean", BLUE),
        Series("rollout/length_p95_tokens", "95th percentile", ORANGE),
    )
    mismatch = (
        Series("learner/kl_rollout", "KL per token", BLUE),
        Series("parity/max_logprob_difference", "largest difference on a probe", ORANGE),
    )
    pass_rate = _lines(runs, (rate,), "share passed")
    if pass_rate is not None:
        _add_held_out(pass_rate, runs)
    return [
        Chart(
            "reward",
            "Reward",
            "Mean per response. Drawing some prompts more often moves the mean; the second line "
            "undoes that by weights.",
            _lines(runs, reward, "mean reward"),
        ),
        Chart(
            "pass_rate",
            "Pass rate",
            "Line: responses of the step. Diamonds: held-out prompts, with 95% intervals over "
            "prompts.",
            pass_rate,
        ),
        Chart(
            "length",
            "Response length",
            "A response cut at the limit counts as it is.",
            _lines(runs, lengths, "tokens", from_zero=True),
        ),
        Chart(
            "entropy",
            "Entropy",
            "Mean at the trained tokens; near 0, the policy no longer explores.",
            _lines(runs, (Series("learner/entropy", "entropy", BLUE),), "nats", from_zero=True),
        ),
        Chart(
            "mismatch",
            "Mismatch of engine and learner",
            "KL from the sampling to the training policy, which grows with staleness too; largest "
            "difference of log-probabilities at equal weights, after each publish.",
            _lines(runs, mismatch, "nats, log scale", log=True),
        ),
        Chart(
            "staleness",
            "Staleness",
            "Publishes by which the oldest group of a batch was behind when learned.",
            _lines(
                runs,
                (Series("loop/staleness", "staleness", PURPLE),),
                "versions",
                from_zero=True,
                steps=True,
            ),
        ),
    ]


def _tokens(runs: Sequence[Run]) -> list[Chart]:
    kinds = (("generated", GREY), ("selectable", ORANGE), ("trained", BLUE))
    per_step = [Series(f"cost/step_{kind}_tokens", kind, colour) for kind, colour in kinds]
    so_far = [Series(f"cost/{kind}_tokens", kind, colour) for kind, colour in kinds]
    return [
        Chart(
            "step_tokens",
            "Tokens of each step",
            "Last pass over the batch. Selectable less trained is what thinning saved.",
            _lines(runs, per_step, "tokens", from_zero=True),
        ),
        Chart(
            "total_tokens",
            "Tokens so far",
            "From the ledger: every pass, and what is still in flight.",
            _lines(runs, so_far, "tokens", from_zero=True, smooth=False),
        ),
    ]


def _without_cells(runs: Sequence[Run]) -> str:
    names = [escape(run.name) for run in runs if not run.cells]
    return f" Not recorded (no cells.jsonl): {', '.join(names)}." if names else ""


def _probability(runs: Sequence[Run]) -> list[Chart]:
    charts: list[Chart] = []
    for index, run in enumerate(runs):
        if not run.cells:
            continue
        of_run = f": {run.name}" if len(runs) > 1 else ""
        maps = [run.cells[at] for at in _spread(len(run.cells), MOST_MAPS)]
        many = [run.cells[at] for at in _spread(len(run.cells), MOST_BLOCKS)]
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
                _mass_over_time(many, index, by_length=True),
            ),
            Chart(
                f"mass_rate_{index}",
                f"By expected pass rate{of_run}",
                "Share of the draws by expected pass rate.",
                _mass_over_time(many, index, by_length=False),
            ),
        ]
    return charts


def _time(runs: Sequence[Run]) -> list[Chart]:
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
            _lines(
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


def _lines(
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
    """Metrics over steps, as they are and smoothed; None if no run has any.

    They are the runs' own unless `metrics` gives others.
    """
    columns = [
        (index, number, each, of_run[each.key])
        for index, of_run in enumerate(metrics or [run.metrics for run in runs])
        for number, each in enumerate(series)
        if each.key in of_run and np.isfinite(of_run[each.key]).any()
    ]
    if not columns:
        return None
    figure = _figure(unit, log=log)
    smooth = smooth and not steps
    several = len(runs) > 1
    if several and len(series) > 1:
        for number, each in enumerate(series):
            figure.add_trace(_legend_entry(each.label, DASHES[number % len(DASHES)]))
    for index, number, each, column in columns:
        shown = shown_steps(len(column))
        values = np.where(column > 0, column, math.nan) if log else column
        colour = run_colour(index) if several else each.colour
        line = {"color": colour, "shape": "hv" if steps else "linear"}
        if several:
            line["dash"] = DASHES[number % len(DASHES)]
        meta = {"run": index, "x": "step"}
        if smooth and len(runs) <= MOST_RAW:
            figure.add_trace(
                go.Scatter(
                    y=values[shown],
                    mode="lines",
                    line={**line, "width": 1},
                    opacity=0.18 if several else 0.3,
                    hoverinfo="skip",
                    showlegend=False,
                    meta={**meta, "raw": True},
                )
            )
        drawn = smoothed(values) if smooth else values
        suffix = " (this step %{customdata:.4~g})" if smooth else ""
        few = len(shown) == 1
        figure.add_trace(
            go.Scatter(
                y=drawn[shown],
                customdata=values[shown],
                mode="markers" if few else "lines",
                line={**line, "width": 2.2},
                marker={"color": colour},
                name=_name(runs[index], each.label, several, len(series)),
                hovertemplate=f"%{{y:.4~g}}{suffix}",
                showlegend=not several and len(series) > 1,
                meta=meta,
            )
        )
    if from_zero:
        figure.update_yaxes(rangemode="tozero")
    if steps:
        largest = max(float(np.nanmax(column)) for *_, column in columns)
        figure.update_yaxes(dtick=max(1, math.ceil(largest / 5)))
    return figure


def _add_held_out(figure: go.Figure, runs: Sequence[Run]) -> None:
    several = len(runs) > 1
    figure.for_each_trace(
        lambda line: line.update(showlegend=not several and "raw" not in line.meta)
    )
    for index, run in enumerate(runs):
        seen = run.held_out
        if not len(seen.rates):
            continue
        starts = {"step": run.steps[0] - 1, "tokens": 0.0, "seconds": 0.0}
        places = {
            key: [starts[key] if at < 0 else float(values[at]) for at in seen.positions]
            for key, values in _axes(run).items()
        }
        figure.add_trace(
            go.Scatter(
                y=seen.rates,
                error_y={"array": Z95 * seen.errors, "thickness": 1.5, "width": 5},
                mode="markers",
                marker={
                    "symbol": "diamond",
                    "size": 10,
                    "color": run_colour(index) if several else GREEN,
                },
                name=_name(run, "held out", several, 2),
                hovertemplate="%{y:.3f} ± %{error_y.array:.3f}",
                showlegend=not several,
                meta={"run": index, "x": places},
            )
        )


def _map(cells: Sequence[StepCells], index: int, *, wide: bool) -> go.Figure:
    """Bubbles over length and pass rate, with a slider over steps."""
    multiples = [_multiples(each) for each in cells]
    positive = np.concatenate([values[values > 0] for values in multiples])
    # Symmetric about uniform, so that the colour tells more from less at a glance.
    reach = max(math.log2(1.25), float(np.quantile(np.abs(np.log2(positive)), 0.99)))
    frames = [_bubbles(each, values, reach) for each, values in zip(cells, multiples, strict=True)]
    figure = _figure("expected pass rate")
    ticks = np.linspace(-reach, reach, 5)
    last = frames[-1]
    figure.add_trace(
        go.Scatter(
            x=last["x"],
            y=last["y"],
            customdata=last["customdata"],
            mode="markers",
            marker={
                "size": last["size"],
                "sizemode": "area",
                # A cell with a quarter of all draws gets a bubble of 44 pixels.
                "sizeref": 0.25 / 44**2,
                "sizemin": 2,
                "color": last["color"],
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
            },
            hovertemplate=(
                "length %{customdata[0]}, pass rate %{customdata[1]}<br>"
                "%{customdata[2]} of the draws, %{customdata[3]} of the prompts"
                " (%{customdata[4]})<extra></extra>"
            ),
            meta={"run": index},
        )
    )
    figure.update_layout(
        hovermode="closest",
        height=440 if wide else 360,
        margin={"t": 16, "b": 130},
        sliders=[
            {
                "active": len(frames) - 1,
                "currentvalue": {"prefix": "after step ", "xanchor": "right", "offset": 6},
                "pad": {"t": 56},
                "steps": [
                    {
                        "label": str(each.step),
                        "method": "restyle",
                        "args": [
                            {
                                "x": [frame["x"]],
                                "y": [frame["y"]],
                                "customdata": [frame["customdata"]],
                                "marker.size": [frame["size"]],
                                "marker.color": [frame["color"]],
                            }
                        ],
                    }
                    for each, frame in zip(cells, frames, strict=True)
                ],
            }
        ],
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


def _bubbles(cells: StepCells, multiples: FloatArray, reach: float) -> dict[str, list[Any]]:
    total = cells.num_prompts.sum()
    return {
        "x": _rounded(_length_edge(cells.length_cells + 0.5)),
        "y": _rounded((cells.pass_rate_cells + 0.5) / NUM_PASS_RATE_CELLS),
        "size": _rounded(cells.probabilities),
        "color": _rounded(np.clip(np.log2(np.maximum(multiples, 2.0**-20)), -reach, reach)),
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
    figure = _figure("tokens" if by_length else "pass rate")
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


def _timeline(runs: Sequence[Run]) -> go.Figure:
    """Two lanes a run: what engines and learners did, second by second."""
    several = len(runs) > 1
    figure = _figure("")
    kinds = (
        ("generating", ORANGE),
        ("updating", BLUE),
        ("publishing", GREEN),
        ("between steps", PURPLE),
        ("idle", IDLE),
    )
    for kind, colour in kinds:
        figure.add_trace(
            go.Bar(
                x=[None],
                y=[None],
                name=kind,
                marker=_fill(kind, colour),
                orientation="h",
                legendgroup=kind,
            )
        )
    lanes: list[str] = []
    for index, run in enumerate(runs):
        prefix = f"{escape(run.name)} " if several else ""
        engines, learners = f"{prefix}engines", f"{prefix}learners"
        lanes += [engines, learners]
        bars = _blocks(run)
        for kind, colour in kinds:
            for lane in (engines, learners):
                of_lane = bars.get((lane == engines, kind))
                if of_lane is None:
                    continue
                starts, seconds, labels = of_lane
                figure.add_trace(
                    go.Bar(
                        y=[lane] * len(starts),
                        base=np.round(starts, 4),
                        x=np.round(seconds, 4),
                        customdata=labels,
                        orientation="h",
                        marker=_fill(kind, colour),
                        legendgroup=kind,
                        showlegend=False,
                        hovertemplate=f"{kind} %{{x:.2f}} s, %{{customdata}}<extra></extra>",
                        meta={"run": index},
                    )
                )
    figure.update_layout(
        barmode="overlay",
        bargap=0.25,
        hovermode="closest",
        height=130 + 44 * len(lanes),
        margin={"l": 12},
    )
    longest = max(float(run.ends[-1]) for run in runs)
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


def _fill(kind: str, colour: str) -> dict[str, object]:
    if kind != "idle":
        return {"color": colour, "line": {"width": 0}}
    return {
        "color": "rgba(138, 143, 152, 0.12)",
        "line": {"width": 0},
        "pattern": {"shape": "/", "fgcolor": colour, "size": 6, "solidity": 0.35},
    }


Bars = tuple[FloatArray, FloatArray, list[str]]


def _blocks(run: Run) -> dict[tuple[bool, str], Bars]:
    """Bars of the timeline by (engines?, kind): starts, seconds, labels.

    Neighbouring steps are taken together where there are too many.
    """
    wait, update, publish = (np.nan_to_num(run.metrics[f"loop/{p}_seconds"]) for p in PHASES)
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
        wait, update, publish = (np.nan_to_num(run.metrics[f"loop/{p}_seconds"]) for p in PHASES)
        whole = np.diff(run.ends, prepend=0.0)
        whole = np.maximum(whole, wait + update + publish)
        whole = np.where(whole > 0, whole, math.nan)
        busy = np.nan_to_num(run.metrics["loop/generate_seconds"])
        shares.append({"engines": np.clip(1 - busy / whole, 0, 1), "learners": wait / whole})
    figure = _lines(runs, series, "share of the time", from_zero=True, metrics=shares)
    if figure is not None:
        figure.update_yaxes(tickformat=".0%")
    return figure


def _figure(unit: str, *, log: bool = False) -> go.Figure:
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


def _name(run: Run, label: str, several: bool, num_series: int) -> str:
    """Plotly reads names as markup."""
    if not several:
        return escape(label)
    return escape(run.name) + (f", {escape(label)}" if num_series > 1 else "")


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


def _block_size(num_steps: int) -> int:
    return math.ceil(num_steps / MOST_BLOCKS)


def _spread(count: int, most: int) -> Iterator[int]:
    return iter(np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist())


def _rounded(values: FloatArray) -> list[float]:
    """Short numbers: six digits are more than a screen shows."""
    return [float(f"{value:.6g}") for value in values]
