"""Consoles that keep what is printed."""

import io
import re

from rich.console import Console


def plain() -> Console:
    """Make one that is a file."""
    return Console(file=io.StringIO(), width=100)


def terminal(encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    """Make one that is a terminal, and return what it gets too."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Console(file=file, width=100, force_terminal=True, legacy_windows=False), raw


def text_of(console: Console) -> str:
    """Return what a file got."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def without_times(text: str) -> str:
    """Take date and time off lines, which each must have."""
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines), text
    return "\n".join(line.split("  ", 1)[1] for line in lines)
