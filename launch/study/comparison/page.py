"""A comparison as one page that needs nothing else: `comparison.html`.

Comparison -> what was found, tables, curves along every axis as SVG, notes -> HTML
"""

from __future__ import annotations

import io
import math
import re
from html import escape
from typing import Any

import numpy as np

from launch.record.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, STYLE
from launch.record.statistics import Estimate
from launch.study.comparison.curves import AXES, AxisCurves
from launch.study.comparison.findings import Comparison, Row
from launch.study.comparison.words import verdict

COLOURS = (GREY, BLUE, ORANGE, GREEN, RED, PURPLE, "#2ba3b4", "#a0642a", "#c05a9c", "#5b6b1f")
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262c; max-width: 1180px;
       margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { color: #50555e; margin-top: 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .55rem; text-align: right; border-bottom: 1px solid #e4e6ea; }
th { border-bottom: 2px solid #c9cdd4; font-weight: 600; }
th, td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
small { color: #50555e; } div.wide { overflow-x: auto; }
i.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
        margin-right: .5em; }
"""


def page(found: Comparison) -> str:
    """Return the page as HTML."""
    baseline = found.rows[0].arm
    results = [row for row in found.rows if row.paired is not None]
    shown = "".join(
        f"<li><b>{escape(row.arm)}</b>: {escape(row.sentence)}.</li>" for row in results
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    budget = f"{found.amount:,.0f} {AXES[found.axis]}"
    curves = f"{curves_svg(found)}{_reached(found)}" if found.axes else "<p>No shared seed.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(found.name)}</title><style>{CSS}</style></head><body>"
        f"<h1>{escape(found.name)}</h1>"
        f'<p class="lead">{len(found.rows)} arms at an equal budget of {escape(budget)} a run; the '
        f"baseline is <b>{escape(baseline)}</b>. What decides is held-out pass@1 after the run.</p>"
        f"<h2>What was found</h2><ul>{shown or '<li>Only the baseline has finished.</li>'}</ul>"
        f'<h2>After the run</h2><div class="wide">{_results(found)}</div>'
        "<p><small>Mean over seeds with the half width of its 95% interval (Student's t).</small>"
        "</p>"
        f'<h2>Differences to {escape(baseline)}</h2><div class="wide">{_differences(found)}</div>'
        f'<h2>Quality against what was spent</h2><div class="wide">{curves}</div>'
        f"<h2>How to read this</h2><ul>{notes}</ul></body></html>\n"
    )


def curves_svg(found: Comparison) -> str:
    """Draw all axes into one SVG element."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A fixed salt makes the same comparison the same page.
    style = STYLE | {"svg.hashsalt": "comparison", "svg.fonttype": "none"}
    with rc_context(style):
        rows = math.ceil(len(found.axes) / 2)
        figure = Figure(figsize=(11, 3.9 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        for panel, along in zip(panels, found.axes, strict=False):
            quality = "held-out pass@1" if found.held_out else "training reward"
            _draw(panel, along, quality, colours(found))
        for panel in panels[len(found.axes) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 6))
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    # Within a page there is no place for a document's head.
    return re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL)


def colours(found: Comparison) -> dict[str, str]:
    """Give each arm its colour; the baseline is grey."""
    arms = [row.arm for row in found.rows]
    return {arm: COLOURS[index % len(COLOURS)] for index, arm in enumerate(arms)}


def _draw(panel: Any, along: AxisCurves, quality: str, key: dict[str, str]) -> None:
    panel.set_title(f"By {AXES[along.axis]}")
    panel.axhline(along.level, color=GREY, linewidth=0.9, linestyle=":")
    for arm, band in along.bands.items():
        colour = key[arm]
        known = np.isfinite(band.mean)
        panel.fill_between(
            band.spent[known], band.low[known], band.high[known], color=colour, alpha=0.13, lw=0
        )
        panel.plot(band.spent[known], band.mean[known], color=colour, linewidth=1.8, label=arm)
        reach = along.reach[arm].spent
        if math.isfinite(reach):
            panel.plot([reach], [along.level], "o", color=colour, markersize=5)
    panel.set_xlim(left=0)
    panel.set_xlabel(AXES[along.axis])
    panel.set_ylabel(quality)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")


def _results(found: Comparison) -> str:
    heads = ["arm", "pass@1", f"pass@{found.k}", "greedy", "length", "steps", "generated"]
    lines = [_line("th", [*heads, "selectable", "trained", "seconds"])]
    if found.start is not None:
        start, k = found.start, found.k
        keys = ("pass_rate_before", f"pass_at_{k}_before", "greedy_before")
        values = [_number(start.get(key), 3) for key in keys]
        lines.append(_line("td", ["start", *values, _number(start.get("length_mean_before"), 1)]))
    key = colours(found)
    for row in found.rows:
        cells = [
            _estimate(row.pass_rate, 3),
            _estimate(row.pass_at_k, 3),
            _estimate(row.greedy, 3),
            _estimate(row.length, 1),
            *(
                _number(each.mean, 0)
                for each in (
                    row.steps, row.generated_tokens, row.selectable_tokens, row.trained_tokens,
                    row.seconds,
                )
            ),
        ]  # fmt: skip
        lines.append(_line("td", [_named(row.arm, key), *cells]))
    return f"<table>{''.join(lines)}</table>"


def _differences(found: Comparison) -> str:
    heads = ("arm", "difference", "95% interval", "seeds", "p, corrected", "p", "p, Wilcoxon")
    lines = [_line("th", [*heads, "d<sub>z</sub>", "rank-biserial", "verdict"])]
    lines += [_difference(row) for row in found.rows if row.paired is not None]
    return f"<table>{''.join(lines)}</table>"


def _difference(row: Row) -> str:
    paired = row.paired
    assert paired is not None
    change = paired.difference
    interval = "" if math.isnan(change.half_width) else f"[{change.low:+.3f}, {change.high:+.3f}]"
    cells = [
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
    return _line("td", cells)


def _reached(found: Comparison) -> str:
    baseline = found.rows[0].arm
    lines = [_line("th", [f"to reach where {escape(baseline)} ends", *map(_axis_head, found.axes)])]
    key = colours(found)
    for row in found.rows:
        cells = []
        for along in found.axes:
            if row.arm not in along.reach:
                cells.append("not comparable")
                continue
            reach = along.reach[row.arm]
            high = "never" if math.isinf(reach.high) else f"{reach.high:,.0f}"
            interval = f"<small>[{reach.low:,.0f}, {high}]</small>"
            never = math.isinf(reach.spent)
            cells.append("not reached" if never else f"{reach.spent:,.0f} {interval}")
        lines.append(_line("td", [_named(row.arm, key), *cells]))
    return f"<table>{''.join(lines)}</table>"


def _axis_head(along: AxisCurves) -> str:
    return f"{escape(along.axis.replace('_', ' '))} to {along.level:.3f}"


def _named(arm: str, key: dict[str, str]) -> str:
    return f'<i class="key" style="background:{key[arm]}"></i>{escape(arm)}'


def _line(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _number(value: Any, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _estimate(value: Estimate, digits: int) -> str:
    if math.isnan(value.half_width):
        return _number(value.mean, digits)
    return f"{value.mean:.{digits}f} <small>&plusmn; {value.half_width:.{digits}f}</small>"
