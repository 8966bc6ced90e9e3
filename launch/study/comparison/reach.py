"""What arms spend to get as far as the baseline, and whether that is less.

    evaluations by seed -> straight lines -> paired differences d(r) [n, G] -> CostRatio -> Reach

Two arms are held against each other at the best quality that both reach. With f_a(x) the pass rate
of arm a after spending x, T_a where its first run ends, b the baseline and r the cost ratio,

    d(r) = f_a(r T_b) - f_b(T_b)      where r T_b <= T_a: the arm's cost of the baseline's end
           f_a(T_a) - f_b(T_a / r)    beyond: what the arm's end costs the baseline

grows with r where learning goes on, and is 0 at the true cost ratio. An arm that does not get as
far as the baseline so has a ratio as well, one above T_a / T_b, and is left out nowhere: among
equal arms half do not get there, and the others alone show a saving where there is none.

d(r) is a mean of paired differences over seeds, so the interval holds each r at which a two-sided
test of d(r) = 0 by Student's t at 5% stays silent: it misses the true ratio to either side with
chance 2.5% at most, whatever the noise of an evaluation is and however often the curves cross.
Where both arms spend the same, its upper end is below 1 only where the arm is better at its end by
the paired test. To read the first crossing of noisy curves would find it early (the winner's
curse). The ratio itself is read off the non-decreasing function that is nearest to d (isotonic
regression; Barlow et al. 1972, "Statistical Inference under Order Restrictions"), which treats both
arms alike: of two equal arms each is as likely to look cheaper. Where both arms are as good as can
be, d is 0 over a range of ratios. No test refuses any of them, and the ratio is their geometric
mean, so that exchanging the arms turns it over.

Lines between evaluations lie below a curve that flattens, for both arms: what lies between
evaluations is drawn towards a ratio of T_a / T_b.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.types import FloatArray
from launch.record.statistics import t_quantile

NUM_POINTS = 400
"""Points on either side of T_a / T_b at which arms are held against each other."""


@dataclass(frozen=True, slots=True)
class CostRatio:
    """An arm's cost over the baseline's at the best quality that both reach, 95% interval."""

    ratio: float
    """In [0, inf]; below 1 the arm is cheaper."""
    low: float
    """Lower end; 0 where no ratio is too small to be true, NaN with one seed."""
    high: float
    """Upper end; infinite where no ratio is too large to be true, NaN with one seed."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What an arm spends to get to where the baseline ends, with a 95% interval."""

    spent: float
    """Infinite if the arm ends below."""
    low: float
    """Lower end of the interval; infinite where it is shown that the arm does not get there."""
    high: float
    """Upper end of the interval; infinite where it is not shown that the arm gets there at all."""
    quality: float
    """The best quality that both reach: where the lower of the two ends, means over seeds."""
    cost: CostRatio
    """Cost over the baseline's at that quality."""
    saves: bool
    """Whether it gets there for less, shown by the whole interval."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The evaluations of one run, along one axis."""

    spent: FloatArray
    """[M] what had been spent, rising; M at least 1."""
    quality: FloatArray
    """[M] pass rates."""

    def at(self, spent: FloatArray) -> FloatArray:
        """Return the quality at points, by straight lines; NaN outside of the evaluations."""
        return np.interp(spent, self.spent, self.quality, left=math.nan, right=math.nan)


def reach(arm: Sequence[Evaluated], baseline: Sequence[Evaluated]) -> Reach:
    """Hold an arm against the baseline.

    Args:
        arm: Its runs, one a seed.
        baseline: Its runs of the same seeds, in the same order.
    """
    share = np.linspace(0.0, 1.0, NUM_POINTS + 1)
    ends = [min(float(run.spent[-1]) for run in runs) for runs in (arm, baseline)]
    # [n, G] up to where the first run of each arm ends.
    own, other = (
        np.stack([run.at(share * end) for run in runs])
        for runs, end in zip((arm, baseline), ends, strict=True)
    )
    at_ends = ends[0] / ends[1]
    with np.errstate(divide="ignore"):
        ratios = np.concatenate([at_ends * share, (at_ends / share)[-2::-1]])
    d = np.concatenate([own - other[:, -1:], (own[:, -1:] - other)[:, -2::-1]], axis=1)
    known = np.isfinite(d).all(axis=0)
    cost = cost_ratio(ratios[known], d[:, known])

    def spent(ratio: float) -> float:
        # Beyond the ends' ratio it is the baseline that is asked for its cost.
        return math.inf if ratio > at_ends * (1 + 1e-9) else ratio * ends[1]

    return Reach(
        spent=spent(cost.ratio),
        low=spent(cost.low),
        high=spent(cost.high),
        quality=float(min(own[:, -1].mean(), other[:, -1].mean())),
        cost=cost,
        saves=spent(cost.high) < ends[1],
    )


def arrival(run: Evaluated, target: float) -> float:
    """Return what a run had spent when it got to a target.

    Read off the non-decreasing function that is nearest to its evaluations, by straight lines. The
    place of the first evaluation that is not below would come earlier the more often a run is
    evaluated along an axis: more chances of a lucky one, and less to wait for the next.

    Args:
        run: Up to where it is to be judged.
        target: A pass rate.

    Returns:
        Its first evaluation's place where it begins there, infinite where it does not get there.
    """
    # As in `cost_ratio`.
    from scipy.optimize import isotonic_regression

    above = isotonic_regression(run.quality).x - target
    at = int(np.searchsorted(above, 0.0))
    return float(run.spent[0]) if at == 0 else _crossing(run.spent, above, at)


def cost_ratio(ratios: FloatArray, differences: FloatArray) -> CostRatio:
    """Return the ratio at which paired differences are 0, with the ratios no test refuses.

    Args:
        ratios: [G] candidates, rising.
        differences: [n, G] quality of the arm less the baseline's at each candidate, by seed.
    """
    # Imported where it is needed: scipy would double the time in which a program starts.
    from scipy.optimize import isotonic_regression

    count, mean = len(differences), differences.mean(axis=0)
    nearest = isotonic_regression(mean).x
    ratio = _middle_zero(ratios, nearest)
    if count < 2:
        return CostRatio(ratio, math.nan, math.nan)
    half = t_quantile(count - 1) * differences.std(axis=0, ddof=1) / math.sqrt(count)
    # Of seeds whose differences are all 0 a test says nothing: such a ratio is not refused.
    not_too_small = np.flatnonzero(mean + half >= 0)
    not_too_large = np.flatnonzero(mean - half <= 0)
    first = int(not_too_small[0]) if len(not_too_small) else len(ratios)
    last = int(not_too_large[-1]) if len(not_too_large) else -1
    # Every ratio below `low` and above `high` is refused, to the next candidate outwards, for where
    # between two a test begins to speak is not known, unless all seeds cross in the inner one.
    cross = np.append(~differences.any(axis=0), False)
    return CostRatio(
        ratio,
        low=float(ratios[first - (not cross[first])]) if first else 0.0,
        high=float(ratios[last + (not cross[last])]) if last + 1 < len(ratios) else math.inf,
    )


def _middle_zero(ratios: FloatArray, rising: FloatArray) -> float:
    """Return where a rising function is 0, the geometric mean of the first and the last zero.

    0 and inf where it is above and below 0 throughout; the middle candidate where it is 0 at all.

    Args:
        ratios: [G] candidates, rising.
        rising: [G] the function there, with straight lines between them.
    """
    first, last = (int(np.searchsorted(rising, 0.0, side)) for side in ("left", "right"))
    if last - first == len(ratios):
        return float(ratios[len(ratios) // 2])
    return math.sqrt(_crossing(ratios, rising, first) * _crossing(ratios, rising, last))


def _crossing(ratios: FloatArray, rising: FloatArray, at: int) -> float:
    """Return the zero between candidate `at` and the one before."""
    if at in (0, len(ratios)):
        return 0.0 if at == 0 else math.inf
    if math.isinf(ratios[at]):
        return float(ratios[at - 1])
    part = -rising[at - 1] / (rising[at] - rising[at - 1])
    return float(ratios[at - 1] + part * (ratios[at] - ratios[at - 1]))
