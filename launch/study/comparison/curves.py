"""How quality grows with what is spent: curves of runs, bands over seeds, cost of a given quality.

    metrics.jsonl -> Curve per run -> on a grid of one axis [G] -> Band over seeds
                                   -> its evaluations -> Reach of the baseline's end

Quality is the held-out pass rate where a run was evaluated on the way (`evaluation.every`), with
straight lines between evaluations. Otherwise it is the design-weighted training reward, which the
uniform draw would have had on average, smoothed: a straight line is fitted around each point with
weights that fall with distance on the axis (local linear regression; Fan and Gijbels 1996, ch. 2),
equally wide for all arms, so that cheap steps are not smoothed over less of the budget.

What it takes to get as far as the baseline is read off evaluations only: draws, noise and smoothing
of training rewards differ between arms. A band is at each point by itself the 95% interval of
Student's t over seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost.types import FloatArray
from launch.record.run_folder import at_versions
from launch.record.statistics import t_quantile
from launch.record.summary import TURNS
from launch.study.comparison.reach import Evaluated, Reach, arrival, reach

AXES = {
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "compute_flops": "FLOPs",
    "accelerator_seconds": "seconds of engines and learners at work",
    "seconds": "seconds of waiting, learning and publishing",
    "steps": "steps",
}
"""Axes in the words of a reader; one that a run does not know is left out."""
HELD_OUT = "evaluation/pass_rate"
TRAINING = "cost/reward_mean_uniform"
SECONDS = tuple(f"loop/{turn}_seconds" for turn in TURNS)
OTHERS = {
    "compute_flops": ("cost/compute_flops",),
    "accelerator_seconds": ("cost/engine_seconds", "cost/learner_seconds"),
}
"""Axes that a run may lack, with the metrics that they are the sum of."""
NEEDED = ("cost/generated_tokens", "cost/trained_tokens", *SECONDS, TRAINING)
"""Metrics that a curve is made of."""
BANDWIDTH_SHARE = 0.2
"""Deviation of the smoothing weights, as a share of the longest run on the axis."""
NUM_GRID = 61
MIN_EVALUATIONS = 2
"""Evaluations after the start, of every run, from which on they make curves."""


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
    reached: Mapping[str, float] | None = None
    """By axis what had been spent when it got to the target (`reach.arrival`), judged by what was
    known when an evaluation on the way first reached it; None where none did, or there is no
    target."""

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
    """[G] lower end of the interval; NaN with one seed."""
    high: FloatArray
    """[G] upper end of the interval; NaN with one seed."""


def curve_of(
    metrics: Mapping[str, FloatArray],
    summary: Mapping[str, Any],
    start: float = math.nan,
    target: float | None = None,
) -> Curve:
    """Return a finished run's curve.

    Args:
        metrics: By key [S], with all of `NEEDED`.
        summary: Content of its `summary.json`; the evaluation after the run is its last point.
        start: Held-out pass rate of the starting policy.
        target: Held-out pass rate at which it was to end; None for none.
    """
    num_steps = len(metrics["step"])
    seconds = sum(np.nan_to_num(metrics[key]) for key in SECONDS)
    held_out = at_versions(metrics, HELD_OUT)
    on_the_way = held_out.copy()
    after = summary.get("pass_rate_after")
    if num_steps and after is not None:
        held_out[-1] = after
    spent = {
        "generated_tokens": metrics["cost/generated_tokens"],
        "trained_tokens": metrics["cost/trained_tokens"],
        "seconds": np.cumsum(seconds),
        "steps": metrics["step"],
    } | _where_known(metrics)
    training = metrics[TRAINING]
    looked = Curve(spent, training, on_the_way, start)
    reached = None if target is None else _reached(looked, target)
    return Curve(spent, training, held_out, start, reached)


def _reached(run: Curve, target: float) -> dict[str, float] | None:
    """Return by axis what a run had spent when it got to a target, None if it did not."""
    reaches = np.flatnonzero(run.held_out >= target)
    if not len(reaches):
        return None
    # Evaluations after that are of batches that were in flight, in some runs more than in others.
    end = int(reaches[0]) + 1
    spent = {axis: each[:end] for axis, each in run.spent.items()}
    known = Curve(spent, run.training[:end], run.held_out[:end], run.start)
    return {axis: arrival(evaluations(known, axis), target) for axis in spent}


def _where_known(metrics: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {
        axis: np.sum([metrics[key] for key in keys], axis=0)
        for axis, keys in OTHERS.items()
        if all(key in metrics for key in keys)
    }


def amount_text(axis: str, amount: float) -> str:
    """Write an amount of an axis as people read it: whole tokens, three digits of FLOPs or few."""
    few = amount < 100 or axis == "compute_flops"
    return f"{amount:.3g}" if few else f"{amount:,.0f}"


def evaluated(curves: Sequence[Curve]) -> bool:
    """Return whether every run was evaluated on the way, beside start and end."""
    return all(curve.num_evaluations >= MIN_EVALUATIONS for curve in curves)


def evaluations(curve: Curve, axis: str) -> Evaluated:
    """Return a run's evaluations along an axis, the start among them where it was evaluated."""
    known = np.isfinite(curve.held_out)
    spent, quality = curve.spent[axis][known], curve.held_out[known]
    if math.isfinite(curve.start):
        spent, quality = np.append(0.0, spent), np.append(curve.start, quality)
    return Evaluated(spent, quality)


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
        quality = evaluations(curve, axis).at(grid)
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
    end: float
    """What the baseline's shortest run spent."""
    level: float
    """The baseline's mean quality there: the level to reach."""
    reach: Mapping[str, Reach]
    """By arm, the baseline left out; empty where quality is not held out."""


def compare_along(
    axis: str, curves: Mapping[str, Mapping[int, Curve]], held_out: bool
) -> AxisCurves | None:
    """Compare all arms along one axis over the seeds they share; None where nothing is compared.

    That is without such a seed, or where some run does not know the axis or spent nothing along it.

    The grid ends where the longest run does; an arm's mean ends where its first run does.

    Args:
        axis: A key of `AXES`.
        curves: By arm and seed; the first arm is the baseline.
        held_out: As in `on_grid`.
    """
    seeds = sorted(set.intersection(*(set(runs) for runs in curves.values())))
    if not seeds or any(axis not in runs[each].spent for runs in curves.values() for each in seeds):
        return None
    spent = [float(runs[each].spent[axis][-1]) for runs in curves.values() for each in seeds]
    if min(spent) <= 0:
        return None
    longest = max(spent)
    grid, width = np.linspace(0.0, longest, NUM_GRID), BANDWIDTH_SHARE * longest

    def along(arm: str, points: FloatArray) -> FloatArray:
        runs = [curves[arm][each] for each in seeds]
        return np.stack([on_grid(run, axis, points, held_out, width) for run in runs])

    baseline, *others = curves
    end = min(float(curves[baseline][each].spent[axis][-1]) for each in seeds)
    measured = {
        arm: [evaluations(curves[arm][each], axis) for each in seeds]
        for arm in (curves if held_out else ())
    }
    return AxisCurves(
        axis=axis,
        bands={arm: band(grid, along(arm, grid)) for arm in curves},
        end=end,
        level=float(along(baseline, np.array([end])).mean()),
        reach={arm: reach(measured[arm], measured[baseline]) for arm in others if held_out},
    )


def band(grid: FloatArray, quality: FloatArray) -> Band:
    """Return the mean over seeds with its interval at each point.

    Args:
        grid: [G] points.
        quality: [n, G] by seed.
    """
    count, mean = len(quality), quality.mean(axis=0)
    if count < 2:
        unknown = np.full(len(grid), math.nan)
        return Band(grid, mean, unknown, unknown)
    half = t_quantile(count - 1) * quality.std(axis=0, ddof=1) / math.sqrt(count)
    return Band(grid, mean, mean - half, mean + half)
