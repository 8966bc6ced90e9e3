"""What a comparison found: one row an arm, differences to the first arm over paired seeds.

    runs by arm and seed -> find -> Comparison -> table, sentences, JSON, page

A difference is paired by seed: runs of one seed start alike and draw the same held-out responses.
The quality that decides is the held-out pass@1 after the run, chosen before any run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from launch.record.statistics import (
    LEVEL,
    MIN_TEST_SEEDS,
    Estimate,
    Paired,
    corrected,
    no_test_sentence,
    sentence,
    smallest_p,
)
from launch.study.comparison.curves import AXES, AxisCurves, Curve, compare_along, evaluated

PASS_RATE = "pass_rate_after"
OFF_BUDGET = 0.1
"""Share of the budget that spending may be off before it is mentioned."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One run as the comparison sees it."""

    summary: Mapping[str, Any]
    """Content of `summary.json`."""
    curve: Curve

    def spent(self, axis: str) -> float:
        """What the whole run took of an axis."""
        return float(self.curve.spent[axis][-1])


@dataclass(frozen=True, slots=True)
class Row:
    """One arm, over its seeds."""

    arm: str
    pass_rate: Estimate
    """Held out, after the run, at the temperature of the evaluation."""
    paired: Paired | None
    """The pass rate against the first arm's, over the seeds both have; None for the first."""
    sentence: str
    """What that shows, in words."""
    pass_at_k: Estimate
    greedy: Estimate
    length: Estimate
    """Mean length of held-out responses, tokens."""
    steps: Estimate
    generated_tokens: Estimate
    selectable_tokens: Estimate
    trained_tokens: Estimate
    seconds: Estimate
    """Of waiting, learning and publishing, without evaluations, saves and starts."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything a reader is told."""

    name: str
    axis: str
    amount: float
    k: int
    """Of pass@k."""
    start: Mapping[str, Any] | None
    """Held-out results before any training, of `summary.json`; None if not measured."""
    rows: Sequence[Row]
    held_out: bool
    """Whether the curves are of evaluations on the way, else of training rewards."""
    axes: Sequence[AxisCurves]
    notes: Sequence[str]


def find(
    name: str,
    axis: str,
    amount: float,
    runs: Mapping[str, Mapping[int, FinishedRun]],
    k: int,
    *,
    background: bool = False,
) -> Comparison:
    """Analyse finished runs.

    Args:
        name: Of the comparison.
        axis: Of the budget.
        amount: Of the budget.
        runs: By arm and seed; the first arm is the baseline.
        k: Of pass@k.
        background: Whether evaluations on the way went on beside training.
    """
    curves = {arm: {seed: run.curve for seed, run in own.items()} for arm, own in runs.items()}
    held_out = evaluated([curve for own in curves.values() for curve in own.values()])
    if not held_out:
        curves = {arm: own for arm, own in curves.items() if arm not in _incomparable(runs)}
    along = [compare_along(each, curves, held_out) for each in AXES]
    baseline = next(iter(runs.values()))
    start = next(
        (
            run.summary
            for run in baseline.values()
            if run.summary.get("pass_rate_before") is not None
        ),
        None,
    )
    return Comparison(
        name=name,
        axis=axis,
        amount=amount,
        k=k,
        start=start,
        rows=_rows(runs, k),
        held_out=held_out,
        axes=[each for each in along if each is not None],
        notes=_notes(axis, amount, runs, held_out, background),
    )


def _rows(runs: Mapping[str, Mapping[int, FinishedRun]], k: int) -> list[Row]:
    first, *others = runs
    baseline = runs[first]
    family = corrected(
        [
            Paired.of(
                [
                    float(run.summary[PASS_RATE]) - float(baseline[seed].summary[PASS_RATE])
                    for seed, run in runs[arm].items()
                    if seed in baseline
                ]
            )
            for arm in others
        ]
    )
    paired: dict[str, Paired | None] = {first: None, **dict(zip(others, family, strict=True))}

    def row(arm: str) -> Row:
        def over_seeds(key: str) -> Estimate:
            values = [run.summary.get(key) for run in runs[arm].values()]
            return Estimate.of([float(value) for value in values if value is not None])

        found = paired[arm]
        return Row(
            arm=arm,
            pass_rate=over_seeds(PASS_RATE),
            paired=found,
            sentence="the baseline"
            if found is None
            else sentence(found, len(others), first, "held-out pass@1"),
            pass_at_k=over_seeds(f"pass_at_{k}_after"),
            greedy=over_seeds("greedy_after"),
            length=over_seeds("length_mean_after"),
            steps=over_seeds("num_steps"),
            generated_tokens=over_seeds("generated_tokens"),
            selectable_tokens=over_seeds("selectable_tokens"),
            trained_tokens=over_seeds("trained_tokens"),
            seconds=Estimate.of([run.spent("seconds") for run in runs[arm].values()]),
        )

    return [row(arm) for arm in runs]


def _notes(
    axis: str,
    amount: float,
    runs: Mapping[str, Mapping[int, FinishedRun]],
    held_out: bool,
    background: bool,
) -> list[str]:
    """What a reader must know to judge the numbers."""
    first, *others = runs
    shared = set.intersection(*(set(own) for own in runs.values()))
    notes = []
    if others:
        arms = f"{len(others)} arm{'s' if len(others) > 1 else ''}"
        notes.append(
            f"{arms} held against {first}. Each interval is a 95% one of Student's t over paired "
            "seeds, for its arm alone; p-values are of the sign-flip permutation test, corrected "
            f"for all {arms} together (Holm)."
        )
    if others and len(shared) < MIN_TEST_SEEDS:
        notes.append(no_test_sentence(len(shared), len(others)))
    elif len(others) * smallest_p(len(shared)) > LEVEL:
        notes.append(
            f"Over {len(others)} arms, {len(shared)} seeds reach p = "
            f"{len(others) * smallest_p(len(shared)):.3g} at best for the first arm found: add "
            "seeds to be able to show a difference at 5%."
        )
    missing = {arm: sorted(set(runs[first]) - set(own)) for arm, own in runs.items()}
    for arm, seeds in missing.items():
        if seeds:
            notes.append(f"{arm} has no finished run of seed {', '.join(map(str, seeds))}.")
    notes += _budget_notes(axis, amount, runs)
    if background:
        notes.append(
            "Evaluations shared the engines with training (evaluation.background): seconds hold "
            "what they took, of each arm differently, and do not compare arms."
        )
    reweighted = _reweighted(runs)
    if reweighted:
        notes.append(
            f"{', '.join(reweighted)}: optimises a reweighted objective, not the uniform one"
            + (
                "; left out of the curves, since its training reward is not comparable."
                if not held_out and _incomparable(runs)
                else "."
            )
        )
    if shared:
        source = (
            "held-out pass@1, evaluated on the way, straight lines in between"
            if held_out
            else "training reward, design-weighted to uniform draws and smoothed, since the runs "
            "were not evaluated on the way (evaluation.every); where an arm's draws are not undone "
            "by weights it is not comparable, and its end need not order the arms as held-out "
            "pass@1 does"
        )
        notes.append(f"Curves show {source}.")
        notes.append(
            f"Bands and intervals of curves draw the {len(shared)} shared seeds with replacement "
            "(percentile bootstrap)"
            + (
                "; with so few they are too narrow, and show shapes, not tests."
                if len(shared) < MIN_TEST_SEEDS
                else "."
            )
        )
    return notes


def _reweighted(runs: Mapping[str, Mapping[int, FinishedRun]]) -> list[str]:
    """Arms whose draws, thinning or aggregation change the uniform objective."""
    return [
        arm
        for arm, own in runs.items()
        if any(str(run.summary.get("objective")).startswith("reweighted") for run in own.values())
    ]


def _incomparable(runs: Mapping[str, Mapping[int, FinishedRun]]) -> list[str]:
    """Arms whose training reward need not estimate what the baseline's does."""
    reweighted = _reweighted(runs)
    return [] if next(iter(runs)) in reweighted else reweighted


def _budget_notes(
    axis: str, amount: float, runs: Mapping[str, Mapping[int, FinishedRun]]
) -> list[str]:
    """Who spent something else than the budget."""
    spent = {
        arm: sum(run.spent(axis) for run in own.values()) / len(own) for arm, own in runs.items()
    }
    off = {arm: each for arm, each in spent.items() if abs(each - amount) > OFF_BUDGET * amount}
    if not off:
        return []
    listed = ", ".join(f"{arm} {each:,.0f}" for arm, each in off.items())
    if all(each < (1 - OFF_BUDGET) * amount for each in spent.values()):
        return [
            f"No arm reached the budget of {amount:,.0f} {axis} (on average {listed}): the runs "
            "ended with max_steps, so raise it or lower budget.amount."
        ]
    return [
        f"Not at equal budget: of {amount:,.0f} {axis} these arms spent on average {listed}. A run "
        "ends with a whole batch, or with max_steps."
    ]


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
