"""What a person at the terminal sees of a run: the plan, live progress, the result.

On a terminal a small panel stays below whatever else is printed. Where stdout is a file or a pipe,
every step is one line with date and time, to be read with grep.
"""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.cli.visible import visible
from launch.record.console import get_console, print_line
from launch.record.formatting import count_text, number_text, seconds_text, share_text, sparkline
from launch.record.statistics import PAIRED_MARGIN
from launch.record.summary import BESIDE, OVERLAP, TURNS, UNSCORED

TREND_STEPS = 30
TOKENS = ("generated", "selectable", "trained")


class Progress:
    """Shows how far a run is; it takes one `update` a step, then `close`.

    Args:
        name: Of the run.
        num_steps: Steps that it takes in all.
        first_step: Steps that were taken before this start, of which no time is known.
        console: Where to show it; stdout unless given.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        name: str,
        num_steps: int,
        *,
        first_step: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._num_steps = num_steps
        self._console = console or get_console()
        self._clock = clock
        self._pace = Pace(clock())
        self._first_step = self._step = first_step
        self._metrics: Mapping[str, float] = {}
        self._trends: dict[str, deque[float]] = {}
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=2, get_renderable=self._render
            )
            self._live.start()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show one more step; what is told of the same one afterwards is no new one."""
        if step == self._step:
            self._metrics = {**self._metrics, **metrics}
            return
        self._step, self._metrics = step, metrics
        self._pace.tick(self._clock(), [metrics.get(f"loop/{phase}_seconds") for phase in TURNS])
        for key, value in metrics.items():
            self._trends.setdefault(key, deque(maxlen=TREND_STEPS)).append(value)
        if self._live is None:
            print_line(self._line(), self._console)
        else:
            self._live.refresh()

    def close(self) -> None:
        """Leave the last state on the screen and stop drawing."""
        if self._live is not None:
            self._live.stop()

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest of the run is expected to take; NaN before the first step.

        A run that ends with a budget has fewer steps left than their number says.
        """
        left: float = self._num_steps - self._step
        if share := self._metrics.get("loop/done_share"):
            left = min(left, self._step * (1 - share) / share)
        return self._pace.left(left, self._clock())

    def _line(self) -> str:
        width = len(str(self._num_steps))
        parts = [f"step {self._step:>{width}}/{self._num_steps}"]
        parts += [f"{label} {text}" for label, text, _ in self._readings()]
        parts += [self._timing(), f"left {seconds_text(self.seconds_left)}"]
        return "  ".join(parts)

    def _readings(self) -> list[tuple[str, str, str]]:
        """Label, text and key of the trend, for each row of the panel."""

        def value(key: str) -> float:
            return self._metrics.get(key, math.nan)

        length = number_text(value("rollout/length_mean_tokens"), 0)
        p95 = number_text(value("rollout/length_p95_tokens"), 0)
        cut = share_text(value("rollout/truncated_share"))
        generated = count_text(value("loop/generated_tokens"))
        trained = count_text(value("cost/step_trained_tokens"))
        saved = share_text(value("cost/step_saved_share"))
        return [
            ("reward", number_text(value("rollout/reward_mean")), "rollout/reward_mean"),
            (
                "uniform",
                number_text(value("cost/reward_mean_uniform")),
                "cost/reward_mean_uniform",
            ),
            ("pass rate", share_text(value("rollout/pass_rate")), "rollout/pass_rate"),
            ("length", f"{length} (p95 {p95}, cut {cut})", "rollout/length_mean_tokens"),
            ("generated", generated, "loop/generated_tokens"),
            ("trained", f"{trained} (saved {saved})", "cost/step_trained_tokens"),
            ("staleness", number_text(value("loop/staleness"), 0), "loop/staleness"),
        ]

    def _timing(self) -> str:
        def seconds(phases: Sequence[str]) -> list[str]:
            found = {phase: self._metrics.get(f"loop/{phase}_seconds") for phase in phases}
            return [f"{phase} {value:.1f}" for phase, value in found.items() if value is not None]

        parts = " + ".join(seconds(TURNS))
        beside = "".join(f"; meanwhile {each}" for each in seconds(BESIDE))
        return f"step {seconds_text(self._pace.last)} ({parts}{beside})"

    def _render(self) -> RenderableType:
        measured = self._step > self._first_step
        start = f"resumed after step {self._step}" if self._step else "before the first step"
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"step {self._step}/{self._num_steps}", style="bold"),
            ProgressBar(total=self._num_steps, completed=self._step, width=30),
            Text(f"{100 * self._step / self._num_steps:.0f}%", style="bold"),
            Text(f"left {seconds_text(self.seconds_left)}" if measured else start),
        )
        parts: list[RenderableType] = [head]
        if measured:
            body = Table.grid(padding=(0, 2))
            body.add_column(style="cyan", width=9)
            body.add_column(width=27)
            # A fixed width, so that the panel does not grow with every step.
            body.add_column(style="green", no_wrap=True, width=TREND_STEPS)
            for label, text, key in self._readings():
                values = () if self._console.options.ascii_only else self._trends.get(key, ())
                body.add_row(label, text, sparkline(values))
            parts += [Text(), body, Text(self._timing(), style="dim")]
        return Panel(
            Group(*parts), title=Text(self._name, "bold"), border_style="blue", expand=False
        )


class Pace:
    """Smooths the seconds of the steps, and tells from them the time left."""

    def __init__(self, now: float, smoothing: float = 0.8) -> None:
        self._smoothing = smoothing
        self._tick = now
        self._sum = 0.0
        self._mass = 0.0
        self.last = math.nan
        """Seconds of the last step."""

    def tick(self, now: float, phases: Sequence[float | None] = ()) -> None:
        """Take in that a step ends now.

        Args:
            now: On any clock, seconds.
            phases: Seconds that add up to the step; with one missing, the clock is believed, though
                an evaluation before the first step then counts as part of it.
        """
        known = [seconds for seconds in phases if seconds is not None]
        complete = bool(known) and len(known) == len(phases)
        self.last, self._tick = (sum(known) if complete else now - self._tick), now
        self._sum = self._smoothing * self._sum + (1 - self._smoothing) * self.last
        self._mass = self._smoothing * self._mass + (1 - self._smoothing)

    def left(self, num_steps: float, now: float) -> float:
        """Return the expected seconds of so many steps, less what the running one has taken."""
        if not self._mass:
            return math.nan
        return max(0.0, num_steps * self._sum / self._mass - (now - self._tick))


def print_plan(lines: Mapping[str, object], *, console: Console | None = None) -> None:
    """Print what the run will do, one line a quantity; whole numbers get thousands separators."""
    _print_pairs("plan", lines, console or get_console())


def print_result(
    summary: Mapping[str, object], run_dir: Path, *, console: Console | None = None
) -> None:
    """Print how a run ended and where its files are.

    Args:
        summary: From `launch.record.summary.RunSummary.finish`.
        run_dir: The run folder.
        console: Where to print; stdout unless given.
    """
    out = console or get_console()
    table = Table(
        title="held-out prompts", caption=PAIRED_MARGIN, box=box.ROUNDED, title_style="bold"
    )
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    for key in summary:
        match = re.fullmatch(r"(pass_rate|pass_at_\d+|greedy|length_mean)_before", key)
        if match and (summary[key], summary[f"{match[1]}_after"]) != (None, None):
            table.add_row(match[1].replace("_", " "), *_before_after(summary, match[1]))
    if table.row_count:
        table.add_row(
            "prompts scored", *(_scored(summary, when) for when in ("before", "after")), ""
        )
        out.print(table)
    seconds = summary["seconds"]
    assert isinstance(seconds, Mapping)
    lines: dict[str, object] = {
        "steps": f"{summary['num_steps']} ({summary['skipped_steps']} skipped)"
    }
    if restarts := summary.get("restarts"):
        lines["restarts"] = f"{restarts} ({summary['lost_steps']} steps were repeated)"
    if failed := summary.get("failed_tickets"):
        lines["failed tickets"] = f"{failed:,} (none of their responses was trained on)"
    lines |= {f"{kind} tokens": summary[f"{kind}_tokens"] for kind in TOKENS}
    lines["saved in learning"] = share_text(_number(summary["saved_share"]))
    for kind, what in (("generated", "draws"), ("trained", "thinning")):
        tokens = summary[f"uniform_{kind}_tokens_estimated"]
        lines[f"{kind}, uniform {what}"] = f"{tokens:,} (estimated)"
    if (sizing := summary.get("sizing")) is not None:
        assert isinstance(sizing, Mapping)
        lines["chosen sizes"] = (
            f"{sizing['tickets']:.0f} tickets x {sizing['group_size']:.0f} responses, "
            f"{share_text(sizing['saving_estimated'])} saved (estimated)"
        )
    lines |= {f"{phase} time": seconds_text(_number(value)) for phase, value in seconds.items()}
    lines["these times"] = OVERLAP
    for machine in ("engine", "learner"):
        lines[f"{machine} seconds"] = number_text(_number(summary[f"{machine}_seconds"]), 1)
    lines |= {what: summary[key] for key, what in UNSCORED.items() if summary[key]}
    if summary["first_reward_failure"]:
        lines["first of them"] = summary["first_reward_failure"]
    if summary["spent_currency"] is not None:
        lines["spent"] = number_text(_number(summary["spent_currency"]), 2)
    _print_pairs("run", lines | {"files": run_dir}, out)


def _before_after(summary: Mapping[str, object], name: str) -> tuple[str, str, str]:
    digits = 1 if name == "length_mean" else 3
    keys = [f"{name}_{when}" for when in ("before", "after")]
    texts = [_estimate(summary[key], summary.get(f"{key}_half_width"), digits) for key in keys]
    change = _number(summary.get(f"{name}_change"))
    if math.isnan(change):
        return texts[0], texts[1], "-"
    half = summary.get(f"{name}_change_half_width")
    return texts[0], texts[1], f"{change:+.{digits}f}{_margin(half, digits)}"


def _scored(summary: Mapping[str, object], when: str) -> str:
    """Over how many prompts the rates are."""
    scored, lost = (summary.get(f"{kind}_prompts_{when}") for kind in ("num", "lost"))
    if not isinstance(scored, int) or not isinstance(lost, int):
        return "-"
    return f"{scored:,} of {scored + lost:,} ({lost:,} lost)" if lost else f"{scored:,}"


def _estimate(value: object, half_width: object, digits: int) -> str:
    return number_text(_number(value), digits) + _margin(half_width, digits)


def _margin(half_width: object, digits: int) -> str:
    half = _number(half_width)
    return "" if math.isnan(half) else f" +- {half:.{digits}f}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _print_pairs(title: str, pairs: Mapping[str, object], console: Console) -> None:
    table = Table(title=title, box=box.ROUNDED, show_header=False, title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in pairs.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        table.add_row(Text(label), Text(f"{value:,}" if whole else visible(str(value))))
    console.print(table)
