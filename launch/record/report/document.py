"""A page of charts: what stands around them in one HTML document that asks no network for anything.

    title, body, sections of charts -> document

The page's own policy lets no script run but the two in it, by their hashes, and no request leave.
What is not markup must be escaped before it comes here.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from plotly.offline import get_plotlyjs

from launch.record.json_file import json_ready
from launch.record.report.chart import Chart, Section

UNKNOWN = "-"
"""Stands where a run does not tell."""


def document(
    title: str,
    body: Sequence[str],
    drawn: Sequence[Section],
    axes: Sequence[Mapping[str, Sequence[float]]] = (),
) -> str:
    """Return the document.

    Args:
        title: As text.
        body: Markup, the sections among it.
        drawn: Sections whose figures are drawn into the body.
        axes: By run, what its lines may be drawn over; see `launch.record.report.chart`.
    """
    script, style = (
        files("launch.record.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.js", "page.css")
    )
    plotly = get_plotlyjs()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(plotly)} {_hash(script)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    markup = "\n".join(body)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
{markup}
<script type="application/json" id="data">{_data(drawn, axes)}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def navigation(links: Sequence[tuple[str, str]], chips: Sequence[str], choices: str = "") -> str:
    """Return the bar that stays at the top.

    Args:
        links: Key and title of each section.
        chips: Of the runs, in order; a click hides or shows what belongs to one. One alone is not
            shown.
        choices: Markup of what else can be chosen.
    """
    anchors = "".join(f'<a href="#{key}">{title}</a>' for key, title in links)
    buttons = ""
    if len(chips) > 1:
        buttons = '<div class="runs" title="Click to hide or show a run">' + "".join(
            f'<button type="button" class="run" data-run="{index}" aria-pressed="true">'
            f"{chip}</button>"
            for index, chip in enumerate(chips)
        )
        buttons += "</div>"
    return f'<nav><div class="links">{anchors}</div>{buttons}{choices}</nav>'


def chip(colour: str, name: str) -> str:
    """Return a run's name after a dot in its colour."""
    return f'<span class="dot" style="background:{colour}"></span>{escape(name)}'


def section_html(section: Section) -> str:
    """Return a section with a place for each of its charts, and word of those not recorded."""
    note = f'<p class="note">{section.note}</p>' if section.note else ""
    absent = [chart for chart in section.charts if chart.figure is None]
    drawn = [chart for chart in section.charts if chart.figure is not None]
    # A wide one in the same grid would keep the columns beside two narrow ones open.
    charts = "\n".join(
        f'<div class="charts">{"".join(map(_chart, some))}</div>'
        for _, some in groupby(drawn, key=lambda chart: chart.wide)
    )
    missing = "".join(
        f'<p class="note">{escape(chart.title)}: not recorded.</p>' for chart in absent
    )
    return (
        f'<section id="{section.key}"><h2>{section.title}</h2>{note}\n{charts}\n{missing}</section>'
    )


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, whose cells are markup already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    lines = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>'
        "</div>"
    )


def _chart(chart: Chart) -> str:
    return (
        f'<figure class="chart"><figcaption><h3>{escape(chart.title)}</h3>'
        f'<p class="note">{chart.note}</p></figcaption>'
        f'<div class="plot" id="plot-{chart.key}"></div></figure>'
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _data(drawn: Sequence[Section], axes: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """Axes and figures as JSON that cannot end the script element it stands in."""
    figures = [
        f"{json.dumps(chart.key)}: {chart.figure.to_json()}"
        for section in drawn
        for chart in section.charts
        if chart.figure is not None
    ]
    over = json.dumps(json_ready(axes), allow_nan=False)
    return f'{{"axes": {over}, "figures": {{{", ".join(figures)}}}}}'.replace("<", "\\u003c")
