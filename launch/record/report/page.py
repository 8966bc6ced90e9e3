"""The page of one or more runs: what was achieved, charts, ledger, samples, settings.

    run folders -> read_runs -> page_html -> one HTML document

Whatever a model, a data set or a configuration wrote is escaped.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from cost.ledger import METRICS as LEDGER_METRICS
from cost.ledger import Ledger
from launch.cli.visible import visible
from launch.record.formatting import seconds_text, share_text
from launch.record.report.chart import Section, axes, run_colour
from launch.record.report.document import (
    UNKNOWN,
    chip,
    document,
    navigation,
    section_html,
    table_html,
)
from launch.record.report.restarts import restarts_html
from launch.record.report.runs import Run, read_runs
from launch.record.report.sections import sections
from launch.record.report.settings import settings_html
from launch.record.run_folder import write_new
from launch.record.statistics import PAIRED_MARGIN
from launch.record.summary import OVERLAP

MOST_GROUPS = 12
"""Sample groups of a run that the page shows."""
MOST_CHARACTERS = 6000
"""Length at which a prompt or response is cut; the rest is in samples.jsonl."""


def write_page(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Read runs and write their page.

    Args:
        folders: Run folders, at least one.
        out: A new file; None takes report.html in the run's folder, or of several runs a name with
            the time under runs/.

    Returns:
        The file.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    if out is None:
        several = Path(f"runs/report-{time.strftime('%Y%m%d-%H%M%S')}.html")
        out = folders[0] / "report.html" if len(folders) == 1 else several
    # A missing run is named before the place of its report, which may lie in it.
    runs = read_runs(folders)
    # Model output may hold half a surrogate pair, which no file can.
    write_new(out, page_html(runs).encode("utf-8", errors="replace"))
    return out


def page_html(runs: Sequence[Run]) -> str:
    """Return the document.

    Args:
        runs: At least one.
    """
    drawn = sections(runs)
    body = [
        _header(runs),
        _controls(runs, drawn),
        "<main>",
        *map(section_html, drawn),
        _ledger(runs),
        restarts_html(runs),
        _samples(runs),
        settings_html(runs),
        "</main>",
    ]
    return document("Run report: " + ", ".join(run.name for run in runs), body, drawn, axes(runs))


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
        f'<p class="note">{PAIRED_MARGIN.replace("+-", "±")}. Drag in a chart to zoom, double '
        "click to go back; pale lines are the steps themselves, strong ones are smoothed.</p>"
    )
    return "\n".join([*parts, "</header>"])


def _tiles(run: Run) -> str:
    summary = run.summary
    before, after, change = (_rate(summary, which) for which in ("before", "after", "change"))
    changed = f", change {change}" if change != UNKNOWN else ""
    told = f"before training {before}{changed}" if before != UNKNOWN else ""
    tiles = [
        ("held-out pass rate", after, told),
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
        *_flops_tile(summary),
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


def _flops_tile(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    flops, learn = summary.get("compute_flops"), summary.get("learn_flops")
    if not flops or learn is None:
        return []
    return [("FLOPs", f"{flops:.3g}", f"{learn / flops:.0%} of them learning")]


def _comparison(runs: Sequence[Run]) -> str:
    rows = [
        (
            of_run,
            *(_rate(run.summary, when) for when in ("before", "after")),
            _count(run.summary["num_steps"]),
            _count(run.summary["generated_tokens"]),
            _count(run.summary["trained_tokens"]),
            _share(run.summary.get("saved_share")),
            _seconds(run.summary["seconds"].get("loop")),
            _objective(run),
        )
        for of_run, run in zip(_chips(runs), runs, strict=True)
    ]
    heads = (
        "run", "held-out pass rate before", "after", "steps", "tokens generated",
        "tokens trained", "left out in learning", "training loop", "objective",
    )  # fmt: skip
    return table_html(heads, rows)


def _controls(runs: Sequence[Run], drawn: Sequence[Section]) -> str:
    links = [(section.key, section.title) for section in drawn]
    restarted = [("restarts", "Restarts")] if any(run.restarts for run in runs) else []
    links += [("ledger", "Ledger"), *restarted, ("samples", "Samples"), ("settings", "Settings")]
    choices = "".join(
        f'<button type="button" data-axis="{key}" aria-pressed="{str(key == "step").lower()}">'
        f"{label}</button>"
        for key, label in (("step", "steps"), ("tokens", "tokens"), ("seconds", "seconds"))
    )
    choice = f'<div class="choice" role="group" aria-label="Lines over"><span>over</span>{choices}'
    return navigation(links, _chips(runs), f"{choice}</div>")


def _chips(runs: Sequence[Run]) -> list[str]:
    return [chip(run_colour(index), run.name) for index, run in enumerate(runs)]


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
            f"{_text(phase)} seconds",
            *(_seconds(run.summary["seconds"].get(phase)) for run in runs),
            f'<span class="note">{OVERLAP}</span>' if phase == phases[0] else "",
        )
        for phase in phases
    ]
    heads = ("", *(escape(run.name) for run in runs), "")
    return (
        '<section id="ledger"><h2>Ledger</h2><p class="note">Everything spent, counted at the last '
        "step; estimated figures rest on the scheduler's own estimates.</p>"
        f"{table_html(heads, rows)}</section>"
    )


def _samples(runs: Sequence[Run]) -> str:
    blocks: list[str] = []
    for of_run, run in zip(_chips(runs), runs, strict=True):
        groups = [
            list(rows)
            for _, rows in groupby(run.samples, key=lambda row: (row["step"], row["prompt"]))
        ]
        count = len(groups)
        shown = min(count, MOST_GROUPS)
        places = sorted({round(at * (count - 1) / max(shown - 1, 1)) for at in range(shown)})
        if len(runs) > 1:
            blocks.append(f"<h3>{of_run}</h3>")
        if not groups:
            blocks.append('<p class="note">None was recorded.</p>')
        elif len(places) < count:
            blocks.append(f'<p class="note">{len(places)} of {count} groups; '
                          "the others are in samples.jsonl.</p>")  # fmt: skip
        only_last = places[-1:] if len(runs) == 1 else []
        blocks += [_sample_group(groups[at], opened=at in only_last) for at in places]
    return (
        '<section id="samples"><h2>Samples</h2><p class="note">A group holds every '
        "response to one prompt. The weight undoes the probabilities of draw and thinning; 0 was "
        f"not trained on.</p>{''.join(blocks)}</section>"
    )


def _said(row: Mapping[str, Any]) -> str:
    """A response turn by turn, what the environment said apart from what was trained on."""
    turns = row.get("turns") or ()
    return (
        "".join(
            f'<pre class="{"own" if turn["trained"] else "told"}">{_text(turn["text"])}</pre>'
            for turn in turns
        )
        or f"<pre>{_text(row['response'])}</pre>"
    )


def _sample_group(rows: Sequence[Mapping[str, Any]], *, opened: bool) -> str:
    first = rows[0]
    rewards = [row["reward"] for row in rows if isinstance(row["reward"], int | float)]
    mean = sum(rewards) / len(rewards) if rewards else math.nan
    body = "".join(
        '<div class="response"><div class="facts">'
        + "".join(f"<span>{name} <b>{value}</b></span>" for name, value in _facts(row))
        + f"</div>{_said(row)}</div>"
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
    facts.append(("answer", _text(row["answer"]) or UNKNOWN))
    return [*facts, *([("failed", _text(row["failure"]))] if row.get("failure") else [])]


def _objective(run: Run) -> str:
    return _text(run.summary.get("objective") or "not recorded")


def _rate(summary: Mapping[str, Any], which: str) -> str:
    """The pass rate before or after, or its change."""
    rate, half = (summary.get(f"pass_rate_{which}{part}") for part in ("", "_half_width"))
    if not isinstance(rate, int | float):
        return UNKNOWN
    interval = f" ± {100 * half:.1f}" if isinstance(half, int | float) else ""
    return f"{100 * rate:{'+' if which == 'change' else ''}.1f}{interval}%"


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
    """Foreign text, visible and escaped."""
    text = visible(str(value))
    cut = len(text) - MOST_CHARACTERS
    more = f" [{cut:,} more characters]" if cut > 0 else ""
    return escape(text[:MOST_CHARACTERS]) + more
