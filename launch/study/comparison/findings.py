"""What a comparison found: one row an arm, differences to the first arm over paired seeds.

    runs by arm and seed -> find -> Comparison -> words, notes, page

A difference is paired by seed: runs of one seed start alike and draw the same held-out responses.
The quality that decides is the held-out pass@1 after the run, chosen before any run. Runs that end
with a target are alike in that; there what it took to get to the target decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.programs import BudgetConfig
from launch.record.statistics import Estimate, Paired, corrected, sentence
from launch.study.comparison.curves import AXES, AxisCurves, Curve, compare_along, evaluated
from launch.study.comparison.notes import notes
from launch.study.comparison.runs import Runs, incomparable
from launch.study.comparison.speedrun import Speed, speeds

PASS_RATE = "pass_rate_after"


@dataclass(frozen=True, slots=True)
class Row:
    """One arm, over its seeds."""

    arm: str
    pass_rate: Estimate
    """Held-out pass@1 after the run, at the temperature of the evaluation."""
    paired: Paired | None
    """The pass rate against the first arm's, over the seeds both have; None for the first."""
    sentence: str
    """What the paired difference shows, in words."""
    pass_at_k: Estimate
    greedy: Estimate
    length: Estimate
    """Mean length of held-out responses, tokens."""
    steps: Estimate
    generated_tokens: Estimate
    selectable_tokens: Estimate
    trained_tokens: Estimate
    compute_flops: Estimate
    """Of engines and learners, from the model's shape; NaN where that is not known."""
    accelerator_seconds: Estimate
    """Of engines and learners at work."""
    seconds: Estimate
    """Seconds of waiting, learning and publishing, without evaluations, saves and starts."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a reader of a comparison is told."""

    name: str
    budget: BudgetConfig
    k: int
    """The k of pass@k."""
    start: Mapping[str, Any] | None
    """Held-out results before any training, of `summary.json`; None if not measured."""
    rows: Sequence[Row]
    held_out: bool
    """Whether the curves are of evaluations on the way, else of training rewards."""
    curves: Mapping[str, Mapping[int, Curve]]
    """All runs, by arm and seed."""
    axes: Sequence[AxisCurves]
    notes: Sequence[str]
    target: float | None = None
    """Held-out pass@1 with whose first evaluation runs ended; None where it ended none."""
    speeds: Sequence[Speed] = ()
    """What it took to get there; empty without a target."""


def find(
    name: str,
    budget: BudgetConfig,
    runs: Runs,
    k: int,
    *,
    background: bool = False,
    in_flight: bool = False,
    target: float | None = None,
) -> Comparison:
    """Analyse finished runs.

    Args:
        name: Of the comparison.
        budget: What a run may spend, its axis a key of `AXES`.
        runs: The finished runs; the first arm is the baseline.
        k: The k of pass@k.
        background: Whether evaluations on the way went on beside training.
        in_flight: Whether batches were generated while learning waited for an evaluation.
        target: Held-out pass@1 with whose first evaluation runs ended, if they had one.
    """
    curves = {arm: {seed: run.curve for seed, run in own.items()} for arm, own in runs.items()}
    every = [curve for own in curves.values() for curve in own.values()]
    held_out = evaluated(every)
    raced = None if all(curve.reached is None for curve in every) else target
    left_out = [] if held_out else incomparable(runs)
    drawn = {arm: own for arm, own in curves.items() if arm not in left_out}
    along = [compare_along(each, drawn, held_out) for each in AXES]
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
        budget=budget,
        k=k,
        start=start,
        rows=_rows(runs, k),
        held_out=held_out,
        curves=curves,
        axes=[each for each in along if each is not None],
        notes=notes(
            runs,
            budget,
            held_out=held_out,
            background=background,
            in_flight=in_flight,
            target=target,
            raced=raced,
        ),
        target=raced,
        speeds=() if raced is None else speeds(curves),
    )


def _rows(runs: Runs, k: int) -> list[Row]:
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
            compute_flops=over_seeds("compute_flops"),
            accelerator_seconds=Estimate.of(
                [
                    run.spent("accelerator_seconds")
                    for run in runs[arm].values()
                    if "accelerator_seconds" in run.curve.spent
                ]
            ),
            seconds=Estimate.of([run.spent("seconds") for run in runs[arm].values()]),
        )

    return [row(arm) for arm in runs]
