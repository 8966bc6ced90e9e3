"""Runs of one comparison that lie in several files, read together.

    comparison.json, ... -> curves by arm and seed -> the statistics of a comparison, in sentences

Every arm is held against the first over the seeds that both have. Quality is the last evaluation of
a run. Whether the files are of one question is for who names them to know.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch.cli.refusals import UserError
from launch.record.statistics import Estimate, Paired, corrected, sentence
from launch.study.comparison.curves import AXES, Curve, amount_text, compare_along, evaluations
from launch.study.comparison.rendering import reach_sentence

ON_THE_WAY = (1 / 3, 2 / 3)
"""Where curves are read, as shares of what the first arm spent."""
Curves = dict[str, dict[int, Curve]]


def read(files: Sequence[str], arms: Sequence[str]) -> Curves:
    """Return the evaluated runs of some arms, by arm in this order and seed.

    Args:
        files: Each a `comparison.json` of runs that were evaluated on the way.
        arms: Others are passed over, and so are arms without a run; the first is the baseline.

    Raises:
        UserError: If a file is not there, is no comparison, has a run that another has, or if all
            lack the baseline.
    """
    found: Curves = {arm: {} for arm in arms}
    for file in files:
        for arm, runs in _evaluations(file).items():
            for seed, curve in runs.items():
                if seed in found.get(arm, {}):
                    raise UserError(f"pooled must name every run once, {arm} seed {seed} is twice")
                found.setdefault(arm, {})[seed] = curve
    present = {arm: found[arm] for arm in arms if found[arm]}
    if present and arms[0] not in present:
        raise UserError(
            f"pooled must name files with runs of arms.{arms[0]}, the baseline that others are "
            f"held against, got runs of {', '.join(present)} alone"
        )
    return present


def _evaluations(file: str) -> Curves:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return {
            arm: {int(seed): _curve(run) for seed, run in runs.items()}
            for arm, runs in content["evaluations"].items()
        }
    except OSError as error:
        raise UserError(f"pooled must name files, cannot read {file!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f"pooled must name files comparison.json of runs evaluated on the way, got {file!r}"
        ) from None


def _curve(run: dict[str, Any]) -> Curve:
    rates = np.asarray(run["pass_rate"], dtype=np.float64)
    spent = {axis: np.asarray(each, dtype=np.float64) for axis, each in run["spent"].items()}
    if not rates.size or any(each.shape != rates.shape for each in spent.values()):
        raise ValueError
    start = math.nan if run["start"] is None else float(run["start"])
    return Curve(spent, np.full(len(rates), math.nan), rates, start)


def said(curves: Curves, axis: str) -> list[str]:
    """Say of every arm how good it is, and what the others show against the first.

    Args:
        curves: By arm and seed.
        axis: A key of `AXES` along which curves are read on the way.

    Raises:
        UserError: If there is no arm.
    """
    if not curves:
        raise UserError("pooled must name files with runs of some of arms, there are none")
    baseline, *others = curves
    lines = [
        f"{arm}: {Estimate.of([_last(run) for run in runs.values()])} over {len(runs)} seeds, "
        "held-out pass@1"
        for arm, runs in curves.items()
    ]
    shared = {arm: sorted(curves[baseline].keys() & curves[arm].keys()) for arm in others}
    family = corrected(
        [
            Paired.of([_last(curves[arm][s]) - _last(curves[baseline][s]) for s in seeds])
            for arm, seeds in shared.items()
        ]
    )
    for arm, paired in zip(others, family, strict=True):
        alone = "" if paired.sign_flip_p is None else f" (p = {paired.sign_flip_p:.3g} by itself)"
        lines.append(f"{arm}: {sentence(paired, len(others), baseline, 'held-out pass@1')}{alone}.")
        pair = {each: {s: curves[each][s] for s in shared[arm]} for each in (baseline, arm)}
        along = [compare_along(each, pair, held_out=True) for each in AXES] if shared[arm] else []
        lines += [reach_sentence(each, baseline) for each in along if each is not None]
        lines += [_on_the_way(each.end, pair, axis) for each in along if each and each.axis == axis]
    return lines


def _on_the_way(end: float, pair: Curves, axis: str) -> str:
    points = np.array(ON_THE_WAY) * end
    means = {
        arm: np.mean([evaluations(run, axis).at(points) for run in runs.values()], axis=0)
        for arm, runs in pair.items()
    }
    first, second = (amount_text(axis, float(point)) for point in points)
    found = ", ".join(f"{arm} {mean[0]:.3f} and {mean[1]:.3f}" for arm, mean in means.items())
    return f"at a third and two thirds of that end ({first} and {second} {AXES[axis]}): {found}."


def _last(run: Curve) -> float:
    return float(run.held_out[-1])
