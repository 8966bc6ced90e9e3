"""What a person sees while a system starts: which parts do, how many pieces are ready, how long.

Where the same has started here before, it says how long that took.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from launch.record.console import get_console, print_line
from launch.record.counter import StatusLine
from launch.record.formatting import seconds_text
from launch.record.startup_times import StartupTimes


class Startup:
    """Shows which parts of a system start; several may be open at once.

    Args:
        last: How long they took before; without it nothing is said of it, and nothing kept.
        console: Where it is shown; None for the program's own.
        quiet: Whether to show nothing.

    Example:
        with startup.part("engines", 8) as ready: ready(3)
    """

    def __init__(
        self,
        *,
        last: StartupTimes | None = None,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self._last = last
        self._console = Console(quiet=True) if quiet else console or get_console()
        self._open: dict[str, _Part] = {}
        self._line = StatusLine(self._console, self._text)

    @contextmanager
    def part(self, name: str, total: int = 1) -> Iterator[Callable[[int], None]]:
        """Show that `name` starts, and at the end how long it took or that it failed.

        Args:
            name: What starts.
            total: Of how many pieces it is made.

        Yields:
            A function that takes how many of them are ready.
        """
        before = self._last.of(name, total) if self._last else None
        part = _Part(name, total, time.monotonic(), before)
        for other in self._open.values():
            other.beside.append(name)
            part.beside.append(other.name)
        self._open[name] = part
        self._line.start()
        if not self._console.is_terminal:
            print_line(f"starting {part}{part.last_time}", self._console)

        def ready(count: int) -> None:
            part.ready = count
            if total > 1 and not self._console.is_terminal:
                print_line(f"starting {part}", self._console)

        outcome = Text("failed ", style="bold red")
        try:
            yield ready
            outcome = Text("ready  ", style="green")
            if self._last:
                self._last.took(name, total, time.monotonic() - part.began)
        finally:
            if len(self._open) == 1:
                self._line.stop()
            del self._open[name]
            elapsed = seconds_text(time.monotonic() - part.began)
            beside = f", in parallel with {' and '.join(part.beside)}" if part.beside else ""
            self._say(outcome, f"{name} ", (f"{elapsed}{beside}", "dim"))

    def say(self, sentence: str) -> None:
        """Show a sentence on what is being started."""
        self._say(sentence)

    def _say(self, *parts: str | Text | tuple[str, str]) -> None:
        text = Text.assemble(*parts)
        if self._console.is_terminal:
            self._console.print(text)
        else:
            print_line(text.plain, self._console)

    def _text(self) -> str:
        now = time.monotonic()
        parts = [
            f"{each} {seconds_text(now - each.began)}{each.last_time}"
            for each in self._open.values()
        ]
        return f"starting {', '.join(parts)}"


@dataclass(slots=True)
class _Part:
    """What starts."""

    name: str
    total: int
    began: float
    before: float | None = None
    """Seconds that it took the last time."""
    ready: int = 0
    beside: list[str] = field(default_factory=list)
    """What started at the same time, so that the seconds of both do not add up."""

    def __str__(self) -> str:
        counted = f" ({self.ready} of {self.total} ready)" if self.total > 1 else ""
        return f"{self.name}{counted}"

    @property
    def last_time(self) -> str:
        return "" if self.before is None else f" ({seconds_text(self.before)} the last time)"
