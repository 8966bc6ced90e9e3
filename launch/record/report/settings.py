"""The settings of runs as a table."""

from collections.abc import Iterable, Sequence
from html import escape

from conf.keys import flat
from launch.cli.visible import visible
from launch.record.report.document import UNKNOWN, table_html
from launch.record.report.runs import Run


def settings_html(runs: Sequence[Run]) -> str:
    """Return every setting; of several runs, those that differ come first."""
    shown = [
        {visible(key): visible(str(value)) for key, value in flat(run.config).items()}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for settings in shown for key in settings))

    def rows(chosen: Iterable[str]) -> list[tuple[str, ...]]:
        return [
            (escape(key), *(escape(settings.get(key, UNKNOWN)) for settings in shown))
            for key in chosen
        ]

    differing = [key for key in keys if len({settings.get(key) for settings in shown}) > 1]
    heads = ("setting", *(escape(run.name) for run in runs))
    differences = ""
    if len(runs) > 1:
        differences = f"<p>Settings that differ:</p>{table_html(heads, rows(differing))}"
    return (
        f'<section id="settings"><h2>Settings</h2>{differences}<details><summary>All {len(keys)} '
        f"settings</summary>{table_html(heads, rows(keys))}</details></section>"
    )
