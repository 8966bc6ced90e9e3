"""How quality grows with what is spent: curves of runs, bands over seeds, cost of a given quality.

    metrics.jsonl -> Curve per run -> on a grid of one axis [G] -> Band over seeds, Reach of a level

Quality is the held-out pass rate where a run was evaluated on the way (`evaluation.every`), with
straight lines between evaluations. Otherwise it is the design-weighted training reward, which the
uniform draw would have had on average, smoothed: a straight line is fitted around each point with
weights that fall with distance on the axis (local linear regression; Fan and Gijbels 1996, ch. 2),
equally wide for all arms, so that cheap steps are not smoothed over less of the budget.

Bands and intervals come from drawing seeds with replacement, the same for every arm (a percentile
bootstrap, paired). With few seeds they are too narrow; they show shapes, not tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.types import FloatArray
from launch.record.summary import TURNS

AXES = {
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "seconds": "seconds of waiting, learning and publishing",
    "steps": "steps",
}
"""Axes in the words of a reader."""
HELD_OUT = "evaluation/pass_rate"
TRAINING = "cost/reward_mean_uniform"
SECONDS = tuple(f"loop/{turn}_seconds" for turn in TURNS)
NEEDED = ("cost/generated_tokens", "cost/trained_tokens", *SECONDS, TRAINING)
"""Metrics that a curve is made of."""
BANDWIDTH_SHARE = 0.2
"""Deviation of the smoothing weights, as a share of the longest run on the axis."""
NUM_GRID = 61
NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: what it had spent after each step, and how good it was then."""

    spent: Mapping[str, FloatArray]
    """By axis [S] what had been spent, rising."""
    training: FloatArray
    """[S] design-weighted mean reward of the responses of each step, by the policy before it; NaN
    for a step without one."""
    held_out: FloatArray
    """[S] held-out pass rate after each step; NaN where not evaluated."""
    start: float
    """Held-out pass rate before the first step; NaN if not evaluated."""

    @property
    def num_evaluations(self) -> int:
        """Evaluations on the way, the start not counted."""
        return int(np.isfinite(self.held_out).sum())


@dataclass(frozen=True, slots=True)
class Band:
    """An arm's mean curve with a 95% band."""

    spent: FloatArray
    """[G] points of the grid."""
    mean: FloatArray
    """[G] mean over seeds; NaN beyond the shortest run."""
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True)
class Reach:
    """What an arm's mean curve first spends to reach a level, with a 95% interval."""

    spent: float
    """Where the mean curve arrives; infinite if it does not get there."""
    low: float
    high: float
    """Upper end of the interval; infinite if too many resamples do not get there."""
    share: float
    """Share of the resamples that get there, in [0, 1]."""


def curve_of(
    metrics: Mapping[str, FloatArray], summary: Mapping[str, Any], start: float = math.nan
) -> Curve:
    """Return a finished run's curve.

    Args:
        metrics: By key [S], with all of `NEEDED`.
        summary: Content of its `summary.json`; the evaluation after the run is its last point.
        start: Held-out pass rate of the starting policy.
    """
    num_steps = len(metrics["step"])
    seconds = sum(np.nan_to_num(metrics[key]) for key in SECONDS)
    held_out = np.array(metrics.get(HELD_OUT, np.full(num_steps, math.nan)))
    after = summary.get("pass_rate_after")
    if num_steps and after is not None:
        held_out[-1] = after
    return Curve(
        spent={
            "generated_tokens": metrics["cost/generated_tokens"],
            "trained_tokens": metrics["cost/trained_tokens"],
            "seconds": np.cumsum(seconds),
            "steps": metrics["step"],
        },
        training=metrics[TRAINING],
        held_out=held_out,
        start=start,
    )


def evaluated(curves: Sequence[Curve]) -> bool:
    """Return whether every run was evaluated on the way, beside start and end."""
    return all(curve.num_evaluations >= 2 for curve in curves)


def on_grid(curve: Curve, axis: str, grid: FloatArray, held_out: bool, width: float) -> FloatArray:
    """Return [G] a run's quality at points of an axis; NaN beyond its end.

    Args:
        curve: The run.
        axis: A key of `AXES`.
        grid: [G] points, rising.
        held_out: Whether to take the evaluations or the training rewards.
        width: Of the smoothing of training rewards, in units of the axis, positive.
    """
    spent = curve.spent[axis]
    if held_out:
        known = np.isfinite(curve.held_out)
        x, y = spent[known], curve.held_out[known]
        if math.isfinite(curve.start):
            x, y = np.append(0.0, x), np.append(curve.start, y)
        quality = np.interp(grid, x, y, left=math.nan)
    else:
        known = np.isfinite(curve.training)
        # A step's responses came from the policy before it, so at what had been spent by then.
        before = np.append(0.0, spent[:-1])
        quality = local_linear(before[known], curve.training[known], grid, width)
    return np.where(grid <= spent[-1] * (1 + 1e-9), quality, math.nan)


def local_linear(x: FloatArray, y: FloatArray, grid: FloatArray, width: float) -> FloatArray:
    """Return [G] the values at the grid of lines fitted around each of its points.

    Args:
        x: [S] places.
        y: [S] values; those of a straight line are given back exactly.
        grid: [G] points.
        width: Deviation of the Gaussian weights, positive.
    """
    away = x[None, :] - grid[:, None]
    weight = np.exp(-0.5 * (away / width) ** 2)
    # Keeps far points from vanishing altogether where nothing is near.
    weight = weight + 1e-12
    s0, s1, s2 = (np.sum(weight * away**power, axis=1) for power in (0, 1, 2))
    t0, t1 = (np.sum(weight * away**power * y, axis=1) for power in (0, 1))
    spread = s0 * s2 - s1**2
    flat = spread <= 1e-9 * s0 * s2
    line = (s2 * t0 - s1 * t1) / np.where(flat, 1.0, spread)
    return np.asarray(np.where(flat, t0 / s0, line), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class AxisCurves:
    """All arms along one axis, with the seeds that every arm has."""

    axis: str
    bands: Mapping[str, Band]
    level: float
    """The baseline's mean quality at its end: the level to reach."""
    reach: Mapping[str, Reach]


def compare_along(
    axis: str,
    curves: Mapping[str, Mapping[int, Curve]],
    held_out: bool,
    seed: int = 0,
) -> AxisCurves | None:
    """Compare all arms along one axis over the seeds they share; None without such a seed.

    The grid ends where the longest run does; an arm's mean ends where its first run does.

    Args:
        axis: A key of `AXES`.
        curves: By arm and seed; the first arm is the baseline.
        held_out: As in `on_grid`.
        seed: Of the resamples.
    """
    seeds = sorted(set.intersection(*(set(runs) for runs in curves.values())))
    if not seeds:
        return None
    longest = max(runs[each].spent[axis][-1] for runs in curves.values() for each in seeds)
    grid = np.linspace(0.0, longest, NUM_GRID)
    width = BANDWIDTH_SHARE * longest
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(seeds), size=(NUM_RESAMPLES, len(seeds)))
    # [R, n] counts of each seed in each resample: means are then one product.
    share = np.stack([(drawn == index).mean(axis=1) for index in range(len(seeds))], axis=1)
    means, resampled, bands = {}, {}, {}
    for arm, runs in curves.items():
        quality = np.stack([on_grid(runs[each], axis, grid, held_out, width) for each in seeds])
        means[arm] = quality.mean(axis=0)
        resampled[arm] = share @ quality
        low, high = np.quantile(resampled[arm], (0.025, 0.975), axis=0)
        bands[arm] = Band(grid, means[arm], low, high)
    baseline = next(iter(curves))
    level = _last(means[baseline])
    levels = [_last(row) for row in resampled[baseline]]
    reach = {}
    for arm in curves:
        spent = [
            first_reach(grid, row, each) for row, each in zip(resampled[arm], levels, strict=True)
        ]
        low, high = np.quantile(spent, (0.025, 0.975), method="nearest")
        arrived = float(np.mean(np.isfinite(spent)))
        reach[arm] = Reach(first_reach(grid, means[arm], level), float(low), float(high), arrived)
    return AxisCurves(axis, bands, level, reach)


def first_reach(grid: FloatArray, quality: FloatArray, level: float) -> float:
    """Return where a curve first reaches a level, between points of the grid; else infinity.

    Args:
        grid: [G] points, rising.
        quality: [G] quality at the points; NaN where it is unknown.
        level: The quality to reach.
    """
    there = np.flatnonzero(quality >= level - 1e-12)
    if not len(there):
        return math.inf
    at = int(there[0])
    if at == 0 or not math.isfinite(quality[at - 1]):
        return float(grid[at])
    part = (level - quality[at - 1]) / (quality[at] - quality[at - 1])
    return float(grid[at - 1] + min(max(part, 0.0), 1.0) * (grid[at] - grid[at - 1]))


def _last(quality: FloatArray) -> float:
    known = quality[np.isfinite(quality)]
    return float(known[-1]) if len(known) else math.nan
