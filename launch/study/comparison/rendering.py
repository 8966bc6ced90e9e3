"""A comparison as a table and sentences for the console, and as JSON."""

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from launch.record.statistics import LEVEL, MARGIN, Estimate
from launch.study.comparison.curves import AXES, MIN_EVALUATIONS, AxisCurves, Curve, amount_text
from launch.study.comparison.findings import Comparison, Row
from launch.study.comparison.reach import CostRatio, Reach
from launch.study.comparison.speedrun import speed_sentences


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
    view = Table(title=None, caption=f"{MARGIN} seeds; to baseline: over paired seeds")
    view.add_column("arm")
    heads = ("pass@1", "to baseline", f"pass@{found.k}", "greedy", "steps", "generated")
    for head in (*heads, "selectable", "trained", "FLOPs", "seconds", "verdict"):
        view.add_column(head, justify="right")
    if found.start is not None:
        keys = ("pass_rate_before", "", f"pass_at_{found.k}_before", "greedy_before")
        view.add_row("start", *(_rate(found.start.get(key)) for key in keys))
    for row in found.rows:
        # Ends that a target made alike are not held against each other.
        judged = row.paired if found.target is None else None
        difference = judged.difference if judged else Estimate.of([])
        view.add_row(
            row.arm,
            str(row.pass_rate),
            _signed(difference),
            _rate(row.pass_at_k.mean),
            _rate(row.greedy.mean),
            f"{row.steps.mean:.0f}",
            *(
                f"{amount_text('tokens', tokens.mean / 1000)}k"
                for tokens in (row.generated_tokens, row.selectable_tokens, row.trained_tokens)
            ),
            ""
            if math.isnan(row.compute_flops.mean)
            else amount_text("compute_flops", row.compute_flops.mean),
            amount_text("seconds", row.seconds.mean),
            verdict(row) if found.target is None else "",
        )
    return view


def sentences(found: Comparison) -> list[str]:
    """Return one plain sentence an arm, then what it took to reach the baseline's quality.

    Of runs that ended with a target, what it took to get to that, a sentence an axis.
    """
    if found.target is not None:
        return speed_sentences(found.speeds, found.target)
    lines = [f"{row.arm}: {row.sentence}." for row in found.rows if row.paired is not None]
    if not found.held_out:
        return [*lines, unknown_reach(found)]
    return lines + [reach_sentence(each, found.rows[0].arm) for each in found.axes]


def unknown_reach(found: Comparison) -> str:
    """Say why nothing is said of what it takes to get as far as the baseline."""
    fewest = min(run.num_evaluations for own in found.curves.values() for run in own.values())
    return (
        f"What it takes to reach where {found.rows[0].arm} ends is not said: it is read off "
        f"held-out evaluations, of which every run needs {MIN_EVALUATIONS} or more after the "
        f"start, and some have {fewest}; set evaluation.every."
    )


def reach_sentence(along: AxisCurves, baseline: str) -> str:
    """Say what every arm spent to reach the level that the baseline ended at."""
    axis = along.axis
    parts = [f"{arm} {reach_text(axis, each, baseline)}" for arm, each in along.reach.items()]
    return (
        f"{AXES[axis]} to reach {along.level:.3f}, where the curve of {baseline} ends (at "
        f"{amount_text(axis, along.end)}): {'; '.join(parts) or 'no other arm'}."
    )


def reach_text(axis: str, reach: Reach, baseline: str) -> str:
    """Say what one arm spent, and what that is of what the baseline spent."""
    ratio = ratio_text(reach.cost)
    if math.isinf(reach.cost.ratio) and reach.cost.low == 0:
        # As where the baseline ends no higher than it began. "inf times" would be believed.
        return f"not reached (no ratio to what {baseline} took is ruled out)"
    if math.isinf(reach.spent):
        return (
            f"not reached (to {reach.quality:.3f}, the best that both reach, {ratio} times what "
            f"{baseline} took)"
        )
    shown = "" if reach.saves else ", no saving shown"
    if math.isinf(reach.high) and reach.cost.high < 1:
        shown += ", as it may end below"
    return f"{spent_text(axis, reach)} ({ratio} times{shown})"


def ratio_text(cost: CostRatio) -> str:
    """A ratio of costs with its interval."""
    if math.isnan(cost.low):
        return f"{cost.ratio:.2f}"
    return f"{cost.ratio:.2f} [{cost.low:.2f}, {cost.high:.2f}]"


def spent_text(axis: str, reach: Reach) -> str:
    """What an arm spent with its interval; "never" where it is not shown to get there."""
    if math.isinf(reach.spent):
        return "not reached"
    if math.isnan(reach.low):
        return amount_text(axis, reach.spent)
    high = "never" if math.isinf(reach.high) else amount_text(axis, reach.high)
    return f"{amount_text(axis, reach.spent)} [{amount_text(axis, reach.low)}, {high}]"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return the content of `comparison.json`; null where a curve is to be reached is "never".

    Evaluations are there by run, so that everything said of curves can be computed again.
    """
    return {
        "name": found.name,
        "budget": asdict(found.budget),
        "start": dict(found.start) if found.start is not None else None,
        "arms": [asdict(row) | {"verdict": verdict(row)} for row in found.rows],
        "curves_of": "held_out" if found.held_out else "training",
        "evaluations": {
            arm: {str(seed): _evaluations(run) for seed, run in own.items()}
            for arm, own in found.curves.items()
        },
        "axes": [asdict(each) for each in found.axes],
        "sentences": sentences(found),
        "notes": list(found.notes),
    } | _speedrun(found)


def _speedrun(found: Comparison) -> dict[str, Any]:
    if found.target is None:
        return {}
    return {"target": found.target, "speedrun": [asdict(speed) for speed in found.speeds]}


def _evaluations(run: Curve) -> dict[str, Any]:
    known = [index for index, rate in enumerate(run.held_out) if math.isfinite(rate)]
    return {
        "start": run.start,
        "pass_rate": run.held_out[known],
        "spent": {axis: spent[known] for axis, spent in run.spent.items()},
    }


def _rate(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _signed(difference: Estimate) -> str:
    if not difference.count:
        return ""
    if math.isnan(difference.half_width):
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} +- {difference.half_width:.3f}"
