"""The page: runs -> one HTML document that asks no network for anything.

Whatever a model, a data set or a configuration wrote is escaped, and the document's own policy
lets no script run but the two in it, by their hashes, and no request leave.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from plotly.offline import get_plotlyjs

from cost.ledger import METRICS as LEDGER_METRICS
from cost.ledger import Ledger
from launch.record.report.chart import Z95, Chart, Section, axes, run_colour
from launch.record.report.charts import sections
from launch.record.report.runs import Run
from launch.record.summary import json_ready
from launch.record.text import seconds_text, share_text

MOST_GROUPS = 12
"""Sample groups of a run that the page shows."""
MOST_CHARACTERS = 6000
"""Of a prompt or response; the rest is in samples.jsonl."""
UNKNOWN = "-"


def page_html(runs: Sequence[Run]) -> str:
    """Return the document.

    Args:
        runs: At least one.
    """
    drawn = sections(runs)
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
    title = "Run report: " + ", ".join(run.name for run in runs)
    body = "\n".join(
        [
            _header(runs),
            _controls(runs, drawn),
            "<main>",
            *(_section(section) for section in drawn),
            _ledger(runs),
            _samples(runs),
            _settings(runs),
            "</main>",
        ]
    )
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
{body}
<script type="application/json" id="data">{_data(runs, drawn)}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _data(runs: Sequence[Run], drawn: Sequence[Section]) -> str:
    """Axes and figures as JSON that cannot end the script element it stands in."""
    figures = [
        f"{json.dumps(chart.key)}: {chart.figure.to_json()}"
        for section in drawn
        for chart in section.charts
        if chart.figure is not None
    ]
    over = json.dumps(json_ready(axes(runs)), allow_nan=False)
    return f'{{"axes": {over}, "figures": {{{", ".join(figures)}}}}}'.replace("<", "\\u003c")


def _header(runs: Sequence[Run]) -> str:
    parts = ["<header>"]
    if len(runs) == 1:
        parts += [f"<h1>{escape(runs[0].name)}</h1>", _tiles(runs[0])]
    else:
        parts += [f"<h1>{len(runs)} runs</h1>", _comparison(runs)]
    for run in runs:
        if run.summary["completed"] is not True:
            parts.append(
                f'<p class="warning">{escape(run.name)} did not complete: it ended after step '
                f"{run.steps[-1]:.0f}, and what comes after the last step is missing.</p>"
            )
    parts.append(
        '<p class="note">Drag in a chart to zoom, double click to go back; pale lines are the '
        "steps themselves, strong ones are smoothed.</p>"
    )
    return "\n".join([*parts, "</header>"])


def _tiles(run: Run) -> str:
    summary = run.summary
    before, after = (_rate(summary, when) for when in ("before", "after"))
    tiles = [
        ("held-out pass rate", after, f"before training {before}" if before != UNKNOWN else ""),
        (
            "tokens generated",
            _count(summary["generated_tokens"]),
            f"in {_count(summary['num_steps'])} steps",
        ),
        (
            "tokens trained",
            _count(summary["trained_tokens"]),
            f"{_share(summary.get('saved_share'))} of the selectable left out",
        ),
        (
            "time",
            _seconds(summary["seconds"].get("total")),
            f"training loop {_seconds(summary['seconds'].get('loop'))}",
        ),
    ]
    cards = "".join(
        f'<div class="tile"><div class="label">{label}</div><div class="figure">{value}</div>'
        f'<div class="label">{remark or "&nbsp;"}</div></div>'
        for label, value, remark in tiles
    )
    return f'<div class="tiles">{cards}</div>\n<p><b>Objective:</b> {_objective(run)}.</p>'


def _comparison(runs: Sequence[Run]) -> str:
    rows = [
        (
            _chip(index, run),
            *(_rate(run.summary, when) for when in ("before", "after")),
            _count(run.summary["num_steps"]),
            _count(run.summary["generated_tokens"]),
            _count(run.summary["trained_tokens"]),
            _share(run.summary.get("saved_share")),
            _seconds(run.summary["seconds"].get("loop")),
            _objective(run),
        )
        for index, run in enumerate(runs)
    ]
    heads = (
        "run", "held-out pass rate before", "after", "steps", "tokens generated",
        "tokens trained", "left out in learning", "training loop", "objective",
    )  # fmt: skip
    return _table(heads, rows) + '<p class="note">Pass rates with 95% intervals over prompts.</p>'


def _controls(runs: Sequence[Run], drawn: Sequence[Section]) -> str:
    links = [(section.key, section.title) for section in drawn]
    links += [("ledger", "Ledger"), ("samples", "Samples"), ("settings", "Settings")]
    anchors = "".join(f'<a href="#{key}">{title}</a>' for key, title in links)
    chips = ""
    if len(runs) > 1:
        chips = '<div class="runs" title="Click to hide or show a run">' + "".join(
            f'<button type="button" class="run" data-run="{index}" aria-pressed="true">'
            f"{_chip(index, run)}</button>"
            for index, run in enumerate(runs)
        )
        chips += "</div>"
    choices = "".join(
        f'<button type="button" data-axis="{key}" aria-pressed="{str(key == "step").lower()}">'
        f"{label}</button>"
        for key, label in (("step", "steps"), ("tokens", "tokens"), ("seconds", "seconds"))
    )
    return (
        f'<nav><div class="links">{anchors}</div>{chips}'
        f'<div class="choice" role="group" aria-label="Lines over"><span>over</span>{choices}</div>'
        "</nav>"
    )


def _chip(index: int, run: Run) -> str:
    colour = run_colour(index)
    return f'<span class="dot" style="background:{colour}"></span>{escape(run.name)}'


def _section(section: Section) -> str:
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


def _chart(chart: Chart) -> str:
    return (
        f'<figure class="chart"><figcaption><h3>{escape(chart.title)}</h3>'
        f'<p class="note">{chart.note}</p></figcaption>'
        f'<div class="plot" id="plot-{chart.key}"></div></figure>'
    )


def _ledger(runs: Sequence[Run]) -> str:
    """Counters at the last step, with what the runs believe to have saved."""
    keys = [f"cost/{field.name}" for field in fields(Ledger)] + ["cost/spent_currency"]
    rows = [
        (
            escape(key.removeprefix("cost/").replace("_", " ")),
            *(_last(run, key) for run in runs),
            f'<span class="note">{escape(LEDGER_METRICS[key])}</span>',
        )
        for key in keys
        if key in LEDGER_METRICS and any(key in run.metrics for run in runs)
    ]
    shares = (
        ("draw_saving_estimated", "mean over steps: of the cost, by drawing other than uniformly"),
        ("thinning_saving_estimated", "mean over steps: of the cost, by thinning"),
        ("total_variation_from_uniform", "mean over steps: distance of the draws from uniform"),
    )
    rows += [
        (
            key.replace("_", " "),
            *(_share(run.summary.get(key)) for run in runs),
            f'<span class="note">{meaning}</span>',
        )
        for key, meaning in shares
    ]
    phases = list(dict.fromkeys(phase for run in runs for phase in run.summary["seconds"]))
    rows += [
        (
            f"{escape(phase)} seconds",
            *(_seconds(run.summary["seconds"].get(phase)) for run in runs),
            "",
        )
        for phase in phases
    ]
    heads = ("", *(escape(run.name) for run in runs), "")
    return (
        '<section id="ledger"><h2>Ledger</h2><p class="note">Everything spent, counted at the last '
        "step; estimated figures rest on the scheduler's own estimates.</p>"
        f"{_table(heads, rows)}</section>"
    )


def _samples(runs: Sequence[Run]) -> str:
    blocks: list[str] = []
    for index, run in enumerate(runs):
        groups = [
            list(rows)
            for _, rows in groupby(run.samples, key=lambda row: (row["step"], row["prompt"]))
        ]
        count = len(groups)
        shown = min(count, MOST_GROUPS)
        places = sorted({round(at * (count - 1) / max(shown - 1, 1)) for at in range(shown)})
        if len(runs) > 1:
            blocks.append(f"<h3>{_chip(index, run)}</h3>")
        if not groups:
            blocks.append('<p class="note">None was recorded.</p>')
        elif len(places) < count:
            blocks.append(f'<p class="note">{len(places)} of {count} groups; '
                          "the others are in samples.jsonl.</p>")  # fmt: skip
        only_last = places[-1:] if len(runs) == 1 else []
        blocks += [_sample_group(groups[at], opened=at in only_last) for at in places]
    return (
        '<section id="samples"><h2>Samples</h2><p class="note">One group of the step, every '
        "response to one prompt. The weight undoes the probabilities of draw and thinning; 0 was "
        f"not trained on.</p>{''.join(blocks)}</section>"
    )


def _sample_group(rows: Sequence[Mapping[str, Any]], *, opened: bool) -> str:
    first = rows[0]
    rewards = [row["reward"] for row in rows if isinstance(row["reward"], int | float)]
    mean = sum(rewards) / len(rewards) if rewards else math.nan
    body = "".join(
        '<div class="response"><div class="facts">'
        + "".join(f"<span>{name} <b>{value}</b></span>" for name, value in _facts(row))
        + f"</div><pre>{_text(row['response'])}</pre></div>"
        for row in rows
    )
    return (
        f"<details{' open' if opened else ''}><summary>Step {first['step']}: {len(rows)} "
        f"responses, mean reward {_number(mean)}</summary>"
        f'<div class="prompt"><div class="facts"><span>prompt; expected answer '
        f"<b>{_text(first['expected'])}</b></span></div><pre>{_text(first['prompt'])}</pre></div>"
        f"{body}</details>"
    )


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("reward", _number(row["reward"]))]
    facts += [(key, _number(row[key])) for key in ("advantage", "weight") if key in row]
    facts.append(("tokens", _count(row["length_tokens"])))
    return [*facts, ("answer", _text(row["answer"]) or UNKNOWN)]


def _settings(runs: Sequence[Run]) -> str:
    """Every setting; of several runs, those that differ first."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))

    def rows(chosen: Iterable[str]) -> list[tuple[str, ...]]:
        return [
            (escape(key), *(escape(settings.get(key, UNKNOWN)) for settings in flat))
            for key in chosen
        ]

    differing = [key for key in keys if len({settings.get(key) for settings in flat}) > 1]
    heads = ("setting", *(escape(run.name) for run in runs))
    differences = ""
    if len(runs) > 1:
        differences = f"<p>Settings that differ:</p>{_table(heads, rows(differing))}"
    return (
        f'<section id="settings"><h2>Settings</h2>{differences}<details><summary>All {len(keys)} '
        f"settings</summary>{_table(heads, rows(keys))}</details></section>"
    )


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are markup already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    lines = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>'
        "</div>"
    )


def _objective(run: Run) -> str:
    return escape(str(run.summary.get("objective") or "not recorded"))


def _rate(summary: Mapping[str, Any], when: str) -> str:
    rate, error = (summary.get(f"pass_rate_{when}{part}") for part in ("", "_stderr"))
    if not isinstance(rate, int | float):
        return UNKNOWN
    interval = f" ± {100 * Z95 * error:.1f}" if isinstance(error, int | float) else ""
    return f"{100 * rate:.1f}{interval}%"


def _last(run: Run, key: str) -> str:
    column = run.metrics.get(key)
    if column is None or not math.isfinite(column[-1]):
        return UNKNOWN
    value = float(column[-1])
    return _seconds(value) if key.endswith("_seconds") else _count(value)


def _count(value: object) -> str:
    if not isinstance(value, int | float):
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"


def _share(value: object) -> str:
    # Rounding may leave -0.0%, which means nothing.
    return share_text(round(value, 4) + 0.0) if isinstance(value, int | float) else UNKNOWN


def _seconds(value: object) -> str:
    return seconds_text(float(value)) if isinstance(value, int | float) else UNKNOWN


def _number(value: object) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.3g}"


def _text(value: object) -> str:
    """Foreign text, escaped."""
    text = str(value)
    cut = len(text) - MOST_CHARACTERS
    more = f" [{cut:,} more characters]" if cut > 0 else ""
    return escape(text[:MOST_CHARACTERS]) + more
