"""A comparison as one page that asks no network for anything: `comparison.html`.

Comparison -> what was found, tables, curves along every axis, notes -> HTML
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from launch.record.picture import GREY
from launch.record.report.chart import Chart, Section, empty_figure, rounded, run_colour
from launch.record.report.document import chip, document, navigation, section_html, table_html
from launch.record.statistics import Estimate
from launch.study.comparison.curves import AXES, AxisCurves, amount_text
from launch.study.comparison.findings import Comparison, Row
from launch.study.comparison.rendering import (
    ratio_text,
    sentences,
    spent_text,
    unknown_reach,
    verdict,
)


def page(found: Comparison) -> str:
    """Return the page as HTML."""
    baseline = escape(found.rows[0].arm)
    axis, shares = found.budget.axis, found.budget.shares
    budget = f"{amount_text(axis, found.budget.amount)} {AXES[axis]}"
    given = "".join(f", {arm} {share:.3g} of it" for arm, share in shares.items())
    curves = Section("curves", "Quality against what was spent", "", _charts(found))
    results = [row for row in found.rows if row.paired is not None]
    links = (
        ("found", "What was found"),
        ("results", "After the run"),
        *([("differences", "Differences")] if found.target is None else []),
        (curves.key, "Curves"),
        ("notes", "How to read this"),
    )
    decides = "held-out pass@1 after the run"
    if found.target is not None:
        decides = f"what it took to get to held-out pass@1 {found.target:g}"
    body = [
        f"<header><h1>{escape(found.name)}</h1>"
        f"<p>{len(found.rows)} arms at {'a' if given else 'an equal'} "
        f"budget of {escape(budget)} a run{escape(given)}; the baseline is "
        f"<b>{baseline}</b>. What decides is {decides}.</p></header>",
        navigation(links, _chips(found)),
        "<main>",
        _part("found", "What was found", _found(found, results)),
        _part(
            "results",
            "After the run",
            '<p class="note">Mean over seeds with the half width of its 95% interval (Student\'s '
            f"t).</p>{_results(found)}",
        ),
        _part("differences", f"Differences to {baseline}", _differences(results))
        if found.target is None
        else "",
        section_html(curves),
        _reached(found),
        _part("notes", "How to read this", _list(map(escape, found.notes))),
        "</main>",
    ]
    return document(found.name, body, [curves])


def _found(found: Comparison, results: Sequence[Row]) -> str:
    if found.target is not None:
        return _list(map(escape, sentences(found)))
    said = _list(f"<b>{escape(row.arm)}</b>: {escape(row.sentence)}." for row in results)
    return said or "<p>Only the baseline has finished.</p>"


def _part(key: str, title: str, content: str) -> str:
    return f'<section id="{key}"><h2>{title}</h2>{content}</section>'


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _colour(index: int) -> str:
    """Colour of an arm; the baseline is grey."""
    return run_colour(index - 1) if index else GREY


def _chips(found: Comparison) -> list[str]:
    return [chip(_colour(index), row.arm) for index, row in enumerate(found.rows)]


def _charts(found: Comparison) -> list[Chart]:
    """One chart an axis; dots are where an arm reaches what the baseline ends with."""
    return [
        Chart(
            f"by_{along.axis}",
            f"By {AXES[along.axis]}",
            "Line: mean over seeds. Band: 95% interval, Student's t. Dot: reaches what the "
            "baseline ends with.",
            _figure(found, along),
        )
        for along in found.axes
    ]


def _figure(found: Comparison, along: AxisCurves) -> go.Figure:
    figure = empty_figure("held-out pass@1" if found.held_out else "training reward")
    figure.add_hline(along.level, line={"color": GREY, "width": 1, "dash": "dot"})
    for index, row in enumerate(found.rows):
        if row.arm in along.bands:
            figure.add_traces(_traces(along, row.arm, index))
    figure.update_xaxes(title_text=AXES[along.axis], rangemode="tozero")
    return figure


def _traces(along: AxisCurves, arm: str, index: int) -> list[go.Scatter]:
    """Band, mean and dot of an arm; no band of one seed, no dot where nothing is reached."""
    band = along.bands[arm]
    colour, meta = _colour(index), {"run": index}
    known = np.isfinite(band.mean)
    spent, mean, low, high = (
        rounded(values[known]) for values in (band.spent, band.mean, band.low, band.high)
    )
    traces = [
        go.Scatter(
            x=spent,
            y=mean,
            customdata=list(zip(low, high, strict=True)),
            mode="lines",
            line={"color": colour, "width": 2.2},
            name=escape(arm),
            hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]",
            showlegend=False,
            meta=meta,
        ),
    ]
    if np.isfinite(band.low[known]).all():
        edges = go.Scatter(
            x=spent + spent[::-1],
            y=high + low[::-1],
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            meta=meta,
        )
        traces.insert(0, edges)
    else:
        traces[0].update(customdata=None, hovertemplate="%{y:.3f}")
    reached = along.reach[arm].spent if arm in along.reach else math.inf
    if math.isfinite(reached):
        traces.append(
            go.Scatter(
                x=[reached],
                y=[along.level],
                mode="markers",
                marker={"color": colour, "size": 9},
                hoverinfo="skip",
                showlegend=False,
                meta=meta,
            )
        )
    return traces


def _results(found: Comparison) -> str:
    heads = (
        "arm", "pass@1", f"pass@{found.k}", "greedy", "length", "steps", "generated",
        "selectable", "trained", "FLOPs", "seconds",
    )  # fmt: skip
    rows: list[Sequence[str]] = []
    if found.start is not None:
        start, k = found.start, found.k
        keys = ("pass_rate_before", f"pass_at_{k}_before", "greedy_before")
        values = [_number(start.get(key), 3) for key in keys]
        rows.append(["start", *values, _number(start.get("length_mean_before"), 1)])
    for name, row in zip(_chips(found), found.rows, strict=True):
        totals = (row.steps, row.generated_tokens, row.selectable_tokens, row.trained_tokens)
        flops = row.compute_flops.mean
        rows.append(
            [
                name,
                *(_estimate(each, 3) for each in (row.pass_rate, row.pass_at_k, row.greedy)),
                _estimate(row.length, 1),
                *("" if math.isnan(each.mean) else amount_text("", each.mean) for each in totals),
                "" if math.isnan(flops) else amount_text("compute_flops", flops),
                _number(row.seconds.mean, 0),
            ]
        )
    return table_html(heads, rows)


def _differences(results: Sequence[Row]) -> str:
    heads = (
        "arm", "difference", "95% interval", "seeds", "p, corrected", "p", "p, Wilcoxon",
        "d<sub>z</sub>", "rank-biserial", "verdict",
    )  # fmt: skip
    return table_html(heads, [_difference(row) for row in results])


def _difference(row: Row) -> list[str]:
    paired = row.paired
    assert paired is not None
    change = paired.difference
    interval = "" if math.isnan(change.half_width) else f"[{change.low:+.3f}, {change.high:+.3f}]"
    return [
        escape(row.arm),
        "" if math.isnan(change.mean) else f"{change.mean:+.3f}",
        interval,
        str(change.count),
        *(
            "none" if p is None else f"{p:.3g}"
            for p in (paired.corrected_p, paired.sign_flip_p, paired.wilcoxon_p)
        ),
        _number(paired.cohens_d, 2),
        _number(paired.rank_biserial, 2),
        escape(verdict(row)),
    ]


def _reached(found: Comparison) -> str:
    if not found.axes:
        return "<p>No shared seed.</p>"
    if found.target is not None:
        return ""
    if not found.held_out:
        return f"<p>{escape(unknown_reach(found))}</p>"
    baseline = found.rows[0].arm
    heads = [f"to reach where {escape(baseline)} ends"]
    heads += [f"{along.axis.replace('_', ' ')} to {along.level:.3f}" for along in found.axes]
    rows = [
        [name, *(_reach(along, row.arm) for along in found.axes)]
        for name, row in zip(_chips(found), found.rows, strict=True)
    ]
    return table_html(heads, rows)


def _reach(along: AxisCurves, arm: str) -> str:
    if arm not in along.reach:
        return amount_text(along.axis, along.end)
    reach = along.reach[arm]
    below = f", to {reach.quality:.3f}" if math.isinf(reach.spent) else ""
    spent, ratio = escape(spent_text(along.axis, reach)), escape(ratio_text(reach.cost))
    return f"{spent}<br><small>{ratio} times{below}</small>"


def _number(value: Any, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _estimate(value: Estimate, digits: int) -> str:
    if math.isnan(value.half_width):
        return _number(value.mean, digits)
    return f"{value.mean:.{digits}f} <small>&plusmn; {value.half_width:.{digits}f}</small>"
