"""What it takes to reach a fixed target: runs end with the first evaluation that reaches it.

    evaluation.target -> Curve.reached by seed -> Speed of each arm -> sentences, comparison.json

As in MLPerf's training benchmark, what counts is what was spent to get there, evaluations left out,
and the median over seeds; a run that does not get there counts as infinite. Evaluations come every
so many steps, and so more often per token where steps are cheap. That an arm is not ahead for being
looked at more often, its crossing is read between evaluations (`reach.arrival`). What remains is
that a lucky evaluation ends a run: its tests hold equal arms, one looked at twice as often, to 3%.

Seeds pair arms: a ratio is of runs of one seed, told as the geometric mean over seeds, and the test
is the sign-flip permutation test of that mean's logarithm, corrected over all arms (Holm), along
each axis by itself. It is made where all seeds of both arms got there, and from as many seeds on as
it can show anything with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.record.statistics import Paired, corrected
from launch.study.comparison.curves import AXES, Curve, amount_text

Curves = Mapping[str, Mapping[int, Curve]]


@dataclass(frozen=True, slots=True)
class Speed:
    """How an arm got to the target, along one axis.

    Example: Speed(arm="thinned", axis="steps", reached=8, count=8, median=35.0, ratio=0.8, p=0.02)
    """

    arm: str
    axis: str
    reached: int
    """Seeds that got there."""
    count: int
    """Seeds in all."""
    median: float
    """What the arm had spent by then, median over seeds; infinite where most did not get there."""
    ratio: float
    """Geometric mean over paired seeds of its spending over the baseline's; NaN for the baseline,
    and where not all got there."""
    p: float | None
    """Two-sided, of ratios of 1, corrected over arms; None where there is no test."""


def speeds(curves: Curves) -> list[Speed]:
    """Return the speeds of all arms along all axes that every run knows.

    Args:
        curves: By arm and seed; the first arm is the baseline.
    """
    every = [curve for own in curves.values() for curve in own.values()]
    axes = [axis for axis in AXES if all(axis in curve.spent for curve in every)]
    return [speed for axis in axes for speed in _along(axis, curves)]


def _along(axis: str, curves: Curves) -> list[Speed]:
    spent = {
        arm: {seed: _spent(curve, axis) for seed, curve in own.items()}
        for arm, own in curves.items()
    }
    first, *others = spent
    logs = {arm: _log_ratios(spent[arm], spent[first]) for arm in others}
    tests = corrected([Paired.of(logs[arm]) for arm in others])
    p_values = dict(zip(others, (paired.corrected_p for paired in tests), strict=True))
    return [
        Speed(
            arm=arm,
            axis=axis,
            reached=sum(math.isfinite(value) for value in own.values()),
            count=len(own),
            median=_median(list(own.values())),
            ratio=math.exp(np.mean(logs[arm])) if logs.get(arm) else math.nan,
            p=p_values.get(arm),
        )
        for arm, own in spent.items()
    ]


def _median(values: Sequence[float]) -> float:
    """Return the median, the larger of the two in the middle if one of them is infinite."""
    middle = np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]]
    return float(middle.mean())


def _spent(curve: Curve, axis: str) -> float:
    return math.inf if curve.reached is None else curve.reached[axis]


def _log_ratios(arm: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Return ln(arm / baseline) of the seeds they share; nothing unless all of them got there."""
    pairs = [(arm[seed], baseline[seed]) for seed in sorted(arm.keys() & baseline.keys())]
    if not all(0 < value < math.inf for pair in pairs for value in pair):
        return []
    return [math.log(own / other) for own, other in pairs]


def speed_sentences(found: Sequence[Speed], target: float) -> list[str]:
    """Say in one sentence an axis what every arm spent to get to the target."""
    lines = []
    for axis in dict.fromkeys(speed.axis for speed in found):
        parts = [_part(speed) for speed in found if speed.axis == axis]
        lines.append(
            f"{AXES[axis]} to held-out pass@1 {target:g}, medians (geometric means of paired "
            f"ratios): {'; '.join(parts)}."
        )
    return lines


def _part(speed: Speed) -> str:
    median = "not reached" if math.isinf(speed.median) else amount_text(speed.axis, speed.median)
    told = f"{speed.arm} {median}"
    if speed.reached < speed.count:
        told += f", by {speed.reached} of {speed.count} seeds"
    if not math.isnan(speed.ratio):
        test = "no test" if speed.p is None else f"p = {speed.p:.3g}"
        told += f" ({speed.ratio:.2f} times, {test})"
    return told
