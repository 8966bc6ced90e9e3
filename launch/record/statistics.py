"""Is one arm better than another? Paired differences over seeds, few of them.

    values by seed of two arms -> differences d [n] -> interval, tests, effect sizes -> Paired
    tests of all arms -> holm -> Paired with corrected p

Nothing here knows what was measured. Legend: n paired seeds, d [n] differences to the baseline.

The interval is Student's t over the differences. With 3 to 8 seeds it is the honest choice: it
covers 95% when differences are about normal, while a bootstrap interval cannot leave the range of
the few differences seen and covers far less (tests/launch/record/test_statistics.py measures both).

Both tests are exact tests of "the arms are interchangeable", under which every sign of a difference
is as likely as its opposite (Fisher 1935, "The Design of Experiments", ch. 3): all 2^n sign
patterns are counted, on the differences themselves (the sign-flip permutation test of the mean) and
on their ranks (Wilcoxon 1945, the signed-rank test, ties and zeros included). The first decides,
fixed before any data is seen; the second is shown beside it. The patterns are counted
here and not by `scipy.stats.permutation_test`, in which rounding decides whether a pattern ties
with the observed one: pass rates of few prompts tie often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost.types import BoolArray, FloatArray

LEVEL = 0.05
MARGIN = "+- is half of a 95% interval, Student's t over"
"""What every +- of a mean says; what it is over follows."""
PAIRED_MARGIN = f"{MARGIN} prompts; of a change over the differences of single prompts"
MIN_TEST_SEEDS = 8
"""Below it no test is made: 7 seeds that all agree give p = 0.016, 0.08 after correction for 5."""
MOST_ENUMERATED = 16
"""Seeds up to which all sign patterns are counted, 65536 at most; beyond, they are drawn."""
NUM_DRAWN = 100_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with the half width of its 95% interval, Student's t."""

    mean: float
    """Mean of the values; NaN without one."""
    half_width: float
    """Half the width of the interval; NaN with fewer than two values."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate the mean behind some finite values."""
        count = len(values)
        if count == 0:
            return cls(math.nan, math.nan, 0)
        mean = math.fsum(values) / count
        if count == 1:
            return cls(mean, math.nan, 1)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, t_quantile(count - 1) * math.sqrt(variance / count), count)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False where there is none."""
        return abs(self.mean) > self.half_width

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} +- {self.half_width:.3f}"


@dataclass(frozen=True, slots=True)
class Paired:
    """What n paired differences say."""

    difference: Estimate
    """Mean of the differences with its interval."""
    sign_flip_p: float | None
    """Two-sided p of the sign-flip permutation test; None below `MIN_TEST_SEEDS`."""
    wilcoxon_p: float | None
    """Two-sided p of the signed-rank test; None below `MIN_TEST_SEEDS`."""
    cohens_d: float
    """Mean over standard deviation of the differences (d_z); NaN where the latter is 0 or n < 2."""
    rank_biserial: float
    """Share of the rank sum on the positive side minus that on the negative, in [-1, 1]; NaN if all
    differences are 0."""
    corrected_p: float | None = None
    """`sign_flip_p` after Holm's correction over the arms."""

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Paired":
        """Analyse differences, one per paired seed, without a correction for other arms."""
        d = np.asarray(differences, dtype=np.float64)
        tested = len(d) >= MIN_TEST_SEEDS
        deviation = float(d.std(ddof=1)) if len(d) > 1 else 0.0
        ranks = signed_ranks(d)
        total = float(np.abs(ranks).sum())
        return cls(
            difference=Estimate.of(d.tolist()),
            sign_flip_p=sign_flip_p(d) if tested else None,
            wilcoxon_p=sign_flip_p(ranks) if tested else None,
            cohens_d=float(d.mean()) / deviation if deviation > 0 else math.nan,
            rank_biserial=float(ranks.sum()) / total if total else math.nan,
        )


def t_quantile(freedom: int) -> float:
    """Return the quantile .975 of Student's t, with at least 1 degree of freedom."""
    # Imported where it is needed: scipy would double the time in which a program starts.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def signed_ranks(differences: FloatArray) -> FloatArray:
    """Return [n] ranks of absolute differences with the differences' signs.

    Ties share their mean rank; zeros get 0 and do not count among the others (Wilcoxon's way).
    """
    # As in `t_quantile`.
    from scipy.stats import rankdata

    num_zeros = int(np.sum(differences == 0))
    ranks = rankdata(np.abs(differences)) - num_zeros
    return np.asarray(np.sign(differences) * ranks, dtype=np.float64)


def sign_flip_p(scores: FloatArray) -> float:
    """Return the two-sided p of the sum of scores when the sign of each is a fair coin.

    Exact up to `MOST_ENUMERATED` scores that are not zero. Beyond, patterns are drawn, the observed
    one among them, which keeps the test valid (Phipson and Smyth 2010, arXiv:1603.05766).

    Args:
        scores: [n] differences or their signed ranks.
    """
    scores = scores[scores != 0]
    count = len(scores)
    if count == 0:
        return 1.0
    observed = abs(float(scores.sum()))
    # Patterns that tie with the observed one must count, whatever the order of summation.
    threshold = observed - 1e-9 * float(np.abs(scores).sum())
    if count <= MOST_ENUMERATED:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(_reached(patterns, scores, threshold)))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(NUM_DRAWN // 10_000):
        patterns = rng.integers(0, 2, size=(10_000, count))
        hits += int(_reached(patterns, scores, threshold).sum())
    return (hits + 1) / (NUM_DRAWN + 1)


def smallest_p(num_seeds: int) -> float:
    """Return the p that n seeds give when all agree: 2 of 2^n sign patterns."""
    return min(1.0, 2.0 ** (1 - num_seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of one family of tests, in their order (Holm 1979).

    The chance of even one false rejection among all of them then stays below the level, whatever
    depends on what: every arm is held against the same baseline.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def corrected(family: Sequence[Paired]) -> list[Paired]:
    """Add Holm's correction over all arms of a comparison to those that were tested."""
    tested = [paired.sign_flip_p for paired in family]
    # An arm with too few seeds for a test counts as one that rejects nothing.
    p_values = holm([1.0 if p is None else p for p in tested])
    return [
        paired if p is None else replace(paired, corrected_p=value)
        for paired, p, value in zip(family, tested, p_values, strict=True)
    ]


def sentence(paired: Paired, num_arms: int, baseline: str, what: str = "quality") -> str:
    """Say plainly what was found.

    Args:
        paired: Of one arm, corrected.
        num_arms: Arms held against the baseline, at least 1.
        baseline: Its name.
        what: What was measured.
    """
    found, count = paired.difference, paired.difference.count
    if count < 2:
        return f"nothing shown: {count or 'no'} paired seed{'s' if count != 1 else ''}"
    direction = "higher" if found.mean > 0 else "lower"
    interval = f"{found.mean:+.3f}, 95% interval [{found.low:+.3f}, {found.high:+.3f}]"
    if paired.corrected_p is None:
        if found.excludes_zero:
            shown = (
                f"{direction} {what} than {baseline} in these runs ({interval} for this arm alone)"
            )
        else:
            shown = f"no difference shown to {baseline} ({interval})"
        return f"{shown}; {count} paired seeds are too few for a test"
    test = f"p = {paired.corrected_p:.3g} over {count} paired seeds, corrected for {num_arms} arm"
    test += "s" if num_arms > 1 else ""
    if paired.corrected_p <= LEVEL:
        return f"{direction} {what} than {baseline} ({interval}; {test})"
    return f"no difference shown to {baseline} ({interval}; {test})"


def no_test_sentence(num_seeds: int, num_arms: int) -> str:
    """Say why fewer than `MIN_TEST_SEEDS` seeds get an interval only."""
    alone = smallest_p(num_seeds)
    together = min(1.0, alone * num_arms)
    reach = "out of reach" if together > LEVEL else "hardly in reach"
    best = f"p = {alone:.3g}" + (f", {together:.3g} over {num_arms} arms" if num_arms > 1 else "")
    return (
        f"A 5% test is {reach} with {num_seeds} paired seed{'s' if num_seeds > 1 else ''} (at best "
        f"{best}), so there are intervals only; from {MIN_TEST_SEEDS} on there is a test."
    )


def _reached(patterns: np.ndarray, scores: FloatArray, threshold: float) -> BoolArray:
    """Which sign patterns [m, n] of 0 and 1 have a sum as far from zero as the threshold."""
    return np.asarray(np.abs((2 * patterns - 1) @ np.abs(scores)) >= threshold)
