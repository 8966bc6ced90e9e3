"""What arms spend to get as far as the baseline: exact where it can be, and honest about noise."""

import math

import numpy as np
import pytest

from launch.study.comparison.reach import Evaluated, cost_ratio, reach

START = 0.4


def rising(slope, end=400.0, count=5, level=START):
    """Evaluations on a straight line."""
    spent = np.linspace(0.0, end, count)
    return Evaluated(spent, level + slope * spent)


def seeds(slope, **shape):
    return [rising(slope, level=START + 0.01 * seed, **shape) for seed in range(4)]


BASE = seeds(5e-4)


@pytest.mark.parametrize("end", [200.0, 400.0, 700.0])
@pytest.mark.parametrize("slope", [2e-4, 4e-4, 5e-4, 1e-3])
def test_on_straight_lines_the_ratio_of_costs_is_that_of_slopes(slope, end):
    """Whoever reaches the other's end, whatever each may spend; seeds far apart are paired."""
    found = reach(seeds(slope, end=end), BASE)
    truth = 5e-4 / slope
    cost = found.cost
    assert [cost.low, cost.ratio, cost.high] == pytest.approx([truth] * 3, rel=0.02)
    gets_there = slope * end >= 0.2 - 1e-9
    spent = 0.2 / slope if gets_there else math.inf
    assert found.spent == pytest.approx(spent, rel=0.01)
    assert found.quality == pytest.approx(START + 0.015 + min(0.2, slope * end))
    # Twice the slope shows a saving where the budget lets it get there.
    assert found.saves is (slope == 1e-3)


def test_exchanging_the_arms_turns_the_ratio_over():
    rng = np.random.default_rng(3)
    one, other = noisy_arm(rng, 0.01), noisy_arm(rng, 0.01, every=3)
    there, back = reach(one, other).cost, reach(other, one).cost
    assert there.ratio * back.ratio == pytest.approx(1, rel=0.02)
    assert there.low == pytest.approx(1 / back.high, rel=1e-6)
    assert math.isinf(there.high) == (back.low == 0)


def saturating(*arrivals, level=1.0):
    """Straight lines that stay at a level from where they arrive at it, one a seed."""
    spent = np.linspace(0.0, 100.0, 21)
    return [Evaluated(spent, np.minimum(START + spent * (level - START) / a, level))
            for a in arrivals]  # fmt: skip


def test_arms_that_are_the_same_and_as_good_as_can_be_save_nothing():
    """All seeds agree that the difference is 0, over a range of ratios: none of them is refused."""
    same = saturating(60, 60, 60)
    found = reach(same, same)
    assert found.cost.ratio == pytest.approx(1) and not found.saves
    assert [found.cost.low, found.cost.high] == pytest.approx([0.6, 1 / 0.6], rel=0.01)
    same = saturating(50, 55, 60)
    found = reach(same, same)
    assert found.cost.ratio == pytest.approx(1) and not found.saves
    assert found.cost.low < 0.6 and found.cost.high > 1 / 0.6
    nothing = saturating(50, 55, 60, level=START)
    found = reach(nothing, nothing)
    assert found.cost.ratio == 1 and (found.cost.low, found.cost.high) == (0.0, math.inf)
    assert not found.saves


def test_exchanging_arms_as_good_as_can_be_turns_the_ratio_over():
    fast, slow = saturating(40, 45, 50), saturating(70, 75, 80)
    there, back = reach(fast, slow).cost, reach(slow, fast).cost
    assert there.ratio * back.ratio == pytest.approx(1)
    # The arrivals are at 50 and 80: ratios from 0.5 to 1 / 0.8 are all alike.
    assert there.ratio == pytest.approx((0.5 / 0.8) ** 0.5, rel=0.01)
    assert there.low <= 0.5 and there.high >= 1 / 0.8
    assert not reach(fast, slow).saves and not reach(slow, fast).saves


def test_what_never_learns_against_what_does_has_no_finite_ratio():
    flat, base = saturating(50, 55, 60, level=START), saturating(50, 55, 60)
    assert math.isinf(reach(flat, base).cost.ratio) and reach(base, flat).cost.ratio == 0


def test_one_seed_gives_a_ratio_and_no_interval():
    found = reach([rising(1e-3)], [rising(5e-4)])
    assert found.spent == pytest.approx(200) and not found.saves
    assert np.isnan([found.low, found.high, found.cost.low, found.cost.high]).all()


def test_policies_that_do_not_learn_have_no_limits():
    """Nothing can be told from noise around one level."""
    rng = np.random.default_rng(0)
    flat = [[rising(0.0, level=START + rng.normal(0, 0.01)) for _ in range(6)] for _ in range(2)]
    found = reach(*flat).cost
    assert (found.low, found.high) == (0.0, math.inf)
    assert 0 <= found.ratio <= math.inf


def test_without_the_start_only_what_was_evaluated_is_compared():
    late = [Evaluated(run.spent[2:], run.quality[2:]) for run in BASE]
    fast = [Evaluated(run.spent[2:] / 1.25, run.quality[2:]) for run in BASE]
    assert reach(fast, late).cost.ratio == pytest.approx(0.8, rel=0.01)
    # Not known below half of the budget, where an arm that is much faster crosses.
    faster = [Evaluated(run.spent[2:], run.quality[2:] + 0.2) for run in BASE]
    assert reach(faster, late).cost.low == 0


def test_the_crossing_is_of_the_nearest_rising_function():
    """Noise that crosses early and late is neither taken at its first nor at its last word."""
    ratios = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    d = np.array([[-0.4, 0.1, -0.2, -0.1, 0.3, 0.4]])
    # The block of the middle three has the mean -0.067, and is left for 0.3.
    assert cost_ratio(ratios, d).ratio == pytest.approx(0.8 + 0.1 * 0.2 / 1.1, abs=1e-6)


SPENT = 16e3 * np.arange(1, 26)


def truth_at(spent):
    """A learning curve that flattens, from 0.399 to 0.554 at 400k tokens."""
    return 0.399 + 0.155 * -np.expm1(-spent / 160e3) / -np.expm1(-2.5)


def noisy_arm(rng, noise, effect=0.0, every=None, curve=truth_at, num_seeds=8):
    """Seeds of an arm, evaluated a few times, each of them better or worse than the others."""
    places = (9, 19, 24) if every is None else (*range(every, 24, every), 24)
    spent = np.append(0.0, SPENT[[*places]])
    arm = []
    for _ in range(num_seeds):
        quality = curve(spent) + rng.normal(0, effect) * spent / SPENT[-1]
        quality[1:] += rng.normal(0, noise, len(places))
        arm.append(Evaluated(spent, quality))
    return arm


@pytest.mark.parametrize(
    ("noise", "effect", "every"),
    [(0.008, 0.008, None), (0.012, 0.0, None), (0.008, 0.004, 5), (0.02, 0.0, 2)],
)
def test_arms_that_are_the_same_save_nothing(noise, effect, every):
    """Half of them end below the baseline, and count. Of 400, 2.5% are 10 +- 3."""
    rng = np.random.default_rng(1)
    found = [
        reach(noisy_arm(rng, noise, effect, every), noisy_arm(rng, noise, effect))
        for _ in range(400)
    ]
    savings = [1 - each.cost.ratio for each in found]
    assert abs(np.median(savings)) < 0.03
    assert 0.4 < np.mean([math.isinf(each.spent) for each in found]) < 0.6
    assert np.mean([each.saves for each in found]) < 0.05
    assert np.mean([each.cost.low > 1 for each in found]) < 0.05
    assert all(each.saves == (each.high < SPENT[-1]) for each in found)
    # What is claimed is what the paired test at equal spending claims, or less.
    assert np.mean([each.cost.low <= 1 <= each.cost.high for each in found]) > 0.91


@pytest.mark.parametrize("ratio", [0.6, 0.85, 1.25])
def test_the_interval_covers_the_true_ratio(ratio):
    """Of straight lines, so that those between evaluations add nothing."""
    rng = np.random.default_rng(2)

    def line(speed):
        return lambda spent: START + 0.15 * speed * spent / SPENT[-1]

    found = [
        reach(
            noisy_arm(rng, 0.01, 0.008, curve=line(1 / ratio)),
            noisy_arm(rng, 0.01, 0.008, curve=line(1.0)),
        ).cost
        for _ in range(300)
    ]
    assert np.mean([each.low <= ratio <= each.high for each in found]) > 0.91
    assert np.median([each.ratio for each in found]) == pytest.approx(ratio, rel=0.04)
    assert all(each.low <= each.ratio <= each.high for each in found)
