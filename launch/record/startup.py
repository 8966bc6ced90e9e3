"""What a person sees while a system starts: which parts do, how many pieces are ready, how long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import get_console
from rich.console import Console
from rich.text import Text

from launch.record.counter import StatusLine, print_line
from launch.record.text import seconds_text


class Startup:
    """Shows which parts of a system start; several may be open at once.

    Example:
        with startup.part("engines", 8) as ready: ready(3)
    """

    def __init__(self, *, console: Console | None = None, quiet: bool = False) -> None:
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
        part = _Part(name, total, time.monotonic())
        for other in self._open.values():
            other.beside.append(name)
            part.beside.append(other.name)
        self._open[name] = part
        self._line.start()
        if not self._console.is_terminal:
            print_line(f"starting {part}", self._console)

        def ready(count: int) -> None:
            part.ready = count
            if total > 1 and not self._console.is_terminal:
                print_line(f"starting {part}", self._console)

        outcome = Text("failed ", style="bold red")
        try:
            yield ready
            outcome = Text("ready  ", style="green")
        finally:
            if len(self._open) == 1:
                self._line.stop()
            del self._open[name]
            elapsed = seconds_text(time.monotonic() - part.began)
            beside = f", beside {' and '.join(part.beside)}" if part.beside else ""
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
        parts = [f"{each} {seconds_text(now - each.began)}" for each in self._open.values()]
        return f"starting {', '.join(parts)}"


@dataclass(slots=True)
class _Part:
    """What starts."""

    name: str
    total: int
    began: float
    ready: int = 0
    beside: list[str] = field(default_factory=list)
    """What started at the same time, so that the seconds of both do not add up."""

    def __str__(self) -> str:
        counted = f" ({self.ready} of {self.total} ready)" if self.total > 1 else ""
        return f"{self.name}{counted}"
