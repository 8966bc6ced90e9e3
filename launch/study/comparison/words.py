"""A comparison as a table and sentences for the console, and as JSON."""

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from launch.record.statistics import LEVEL, Estimate
from launch.study.comparison.curves import AXES, AxisCurves
from launch.study.comparison.findings import Comparison, Row


def verdict(row: Row) -> str:
    """Say in two or three words what the paired difference shows."""
    found = row.paired
    if found is None:
        return "baseline"
    if found.difference.count < 2:
        return "nothing shown"
    shown = (
        found.difference.excludes_zero if found.corrected_p is None else found.corrected_p <= LEVEL
    )
    if not shown:
        return "no difference shown"
    direction = "higher" if found.difference.mean > 0 else "lower"
    return direction if found.corrected_p is not None else f"{direction}, untested"


def table(found: Comparison) -> Table:
    """Lay the rows out for the console."""
    view = Table(title=None)
    view.add_column("arm")
    heads = ("pass@1", "to baseline", f"pass@{found.k}", "greedy", "steps", "generated")
    for head in (*heads, "selectable", "trained", "seconds", "verdict"):
        view.add_column(head, justify="right")
    if found.start is not None:
        keys = ("pass_rate_before", "", f"pass_at_{found.k}_before", "greedy_before")
        view.add_row("start", *(_rate(found.start.get(key)) for key in keys))
    for row in found.rows:
        difference = row.paired.difference if row.paired else Estimate.of([])
        view.add_row(
            row.arm,
            str(row.pass_rate),
            _signed(difference),
            _rate(row.pass_at_k.mean),
            _rate(row.greedy.mean),
            f"{row.steps.mean:.0f}",
            *(
                f"{tokens.mean / 1000:.0f}k"
                for tokens in (row.generated_tokens, row.selectable_tokens, row.trained_tokens)
            ),
            f"{row.seconds.mean:.0f}",
            verdict(row),
        )
    return view


def sentences(found: Comparison) -> list[str]:
    """Return one plain sentence an arm, then what it took to reach the baseline's quality."""
    lines = [f"{row.arm}: {row.sentence}." for row in found.rows if row.paired is not None]
    return lines + [reach_sentence(each, found.rows[0].arm) for each in found.axes]


def reach_sentence(along: AxisCurves, baseline: str) -> str:
    """Say what every arm spent to reach the level that the baseline ended at."""
    parts = []
    for arm, reach in along.reach.items():
        if arm == baseline:
            continue
        if math.isinf(reach.spent):
            parts.append(f"{arm} not reached")
        else:
            high = "never" if math.isinf(reach.high) else f"{reach.high:,.0f}"
            parts.append(f"{arm} {reach.spent:,.0f} [{reach.low:,.0f}, {high}]")
    end = along.reach[baseline].spent
    return (
        f"{AXES[along.axis]} to reach {along.level:.3f}, where the curve of {baseline} ends (at "
        f"{end:,.0f}): {'; '.join(parts) or 'no other arm'}."
    )


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return the content of `comparison.json`; null in a curve's interval is "not reached"."""
    return {
        "name": found.name,
        "budget": {"axis": found.axis, "amount": found.amount},
        "start": dict(found.start) if found.start is not None else None,
        "arms": [asdict(row) | {"verdict": verdict(row)} for row in found.rows],
        "curves_of": "held_out" if found.held_out else "training",
        "axes": [asdict(each) for each in found.axes],
        "sentences": sentences(found),
        "notes": list(found.notes),
    }


def _rate(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _signed(difference: Estimate) -> str:
    if not difference.count:
        return ""
    if math.isnan(difference.half_width):
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} +- {difference.half_width:.3f}"
