"""The console that programs print on, whose reader may go while they run."""

from __future__ import annotations

import os
import sys
import time
from functools import cache

from rich.console import Console


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Print nothing from here on; rich would raise `SystemExit`, in the middle of a run."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@cache
def get_console() -> Console:
    """Return the console of stdout.

    Once nobody reads stdout any more, as after `| head`, all that goes there is dropped, and the
    program goes on.
    """
    return _Output()


def print_line(text: str, console: Console) -> None:
    """Print one line as it is, which where there is no terminal begins with date and time."""
    when = "" if console.is_terminal else f"{time.strftime('%Y-%m-%d %H:%M:%S')}  "
    console.print(f"{when}{text}", soft_wrap=True, markup=False, highlight=False, emoji=False)
