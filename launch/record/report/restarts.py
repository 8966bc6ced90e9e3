"""The table of the times at which runs went on after a stop."""

import time
from collections.abc import Sequence
from html import escape

from launch.record.report.chart import run_colour
from launch.record.report.document import chip, table_html
from launch.record.report.runs import Run
from launch.record.restarts import Restart

MOST_CHARACTERS = 300
"""Of a value of a setting; the rest is in restarts.json."""


def restarts_html(runs: Sequence[Run]) -> str:
    """Return the section, empty where no run was restarted; foreign text is escaped."""
    if not any(run.restarts for run in runs):
        return ""
    heads = ("run", "went on after step", "steps taken anew", "when", "why", "settings changed")
    rows = [
        (chip(run_colour(index), run.name), *_cells(restart))
        for index, run in enumerate(runs)
        for restart in run.restarts
    ]
    return (
        '<section id="restarts"><h2>Restarts</h2><p class="note">Dotted upright lines in the '
        "charts show where a run went on after a stop. Steps that it took anew, and the time until "
        f"it went on, are in no figure.</p>{table_html(heads, rows)}</section>"
    )


def _cells(restart: Restart) -> tuple[str, ...]:
    changes = (
        f"{escape(key)}: {_value(old)} &rarr; {_value(new)}"
        for key, (old, new) in restart.changed.items()
    )
    return (
        f"{restart.step:,}",
        f"{restart.lost_steps:,}",
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(restart.time)),
        escape(restart.reason),
        "<br>".join(changes),
    )


def _value(value: object) -> str:
    text = str(value)
    return escape(text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ...")
