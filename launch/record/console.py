"""The console that programs print on, whose reader may go while they run."""

from __future__ import annotations

import errno
import sys
import time
from functools import cache

from rich.console import Console

from launch.cli.output import drop, leave_terminal


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Print nothing from here on; rich would raise `SystemExit`, in the middle of a run."""
        self.quiet = True
        drop(sys.stdout.fileno())

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.quiet = True
            leave_terminal()


@cache
def get_console() -> Console:
    """Return the console of stdout.

    Once nobody reads stdout any more, as after `| head` or where the terminal is closed, all that
    goes there is dropped, and the program goes on.
    """
    return _Output()


def print_line(text: str, console: Console) -> None:
    """Print one line as it is, which where there is no terminal begins with date and time."""
    when = "" if console.is_terminal else f"{time.strftime('%Y-%m-%d %H:%M:%S')}  "
    console.print(f"{when}{text}", soft_wrap=True, markup=False, highlight=False, emoji=False)
