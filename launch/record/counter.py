"""How far something of known size is, while it goes on: n of m, and the time left.

On a terminal a line below whatever else is printed, gone at the end. Where stdout is a file or a
pipe, a line with date and time every `EVERY_SECONDS` at most.
"""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from launch.record.console import get_console, print_line
from launch.record.formatting import seconds_text

EVERY_SECONDS = 30.0
"""Between two lines about one thing where there is no terminal."""


class StatusLine:
    """A line at the bottom of a terminal that is drawn anew; nothing where there is none.

    Args:
        console: Where; lines of several on one console stand below each other.
        text: Returns what it says now.
    """

    def __init__(self, console: Console, text: Callable[[], str]) -> None:
        self._text = text
        self._spinner = Spinner("line" if console.options.ascii_only else "dots")
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=8, transient=True
        )
        self._shown = console.is_terminal

    def start(self) -> None:
        """Show it; a second call is harmless."""
        if self._shown:
            self._live.start(refresh=True)

    def stop(self) -> None:
        """Take it away; a second call is harmless."""
        self._live.stop()

    def _render(self) -> Spinner:
        self._spinner.update(text=Text(self._text()))
        return self._spinner


class Counter:
    """Counts up to a known number, and tells from the pace so far when it will be there.

    Example:
        with Counter("held-out evaluation", 1600, "responses") as counter:
            counter.to(8)

    Args:
        name: What goes on.
        total: Where it ends, above 0.
        unit: What is counted, in the plural.
        console: Where to show it; stdout unless given.
        quiet: Whether to show nothing.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        name: str,
        total: float,
        unit: str = "",
        *,
        console: Console | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._console = Console(quiet=True) if quiet else console or get_console()
        self._clock = clock
        self._began = self._told = clock()
        self._done = self._first = 0.0
        self._text = ""
        self._line = StatusLine(self._console, self.text)

    def __enter__(self) -> "Counter":
        """Begin to count, or go on from where it is after a break."""
        self._began = self._told = self._clock()
        self._first = self._done
        self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._line.stop()

    def to(self, done: float, text: str = "") -> None:
        """Take in how much is done.

        Args:
            done: In [0, total].
            text: Says it in place of "n of m units".
        """
        now = self._clock()
        if done < self._first:
            # Taken back to before this beginning: what was lost says nothing of the pace.
            self._began, self._first = now, done
        self._done, self._text = done, text
        if not self._console.is_terminal and now - self._told >= EVERY_SECONDS:
            self._told = now
            print_line(self.text(), self._console)

    @property
    def seconds_left(self) -> float:
        """Seconds until it is there if it goes on as so far; NaN before the first is done."""
        counted = self._done - self._first
        if not counted > 0:
            return math.nan
        return (self._clock() - self._began) * (self._total - self._done) / counted

    def text(self) -> str:
        """Return what is shown now."""
        counted = self._text or f"{self._done:,.0f} of {self._total:,.0f} {self._unit}".rstrip()
        return f"{self._name}: {counted}, left {seconds_text(self.seconds_left)}"
