"""Intervals, exact tests and corrections against closed forms, scipy and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from launch.record.statistics import (
    LEVEL,
    MIN_TEST_SEEDS,
    Estimate,
    Paired,
    corrected,
    holm,
    no_test_sentence,
    sentence,
    sign_flip_p,
    signed_ranks,
    smallest_p,
    t_quantile,
)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_an_interval_is_students():
    """Of 1, 2, 3: mean 2, deviation 1, so 2 +- 4.3027 / sqrt(3)."""
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.half_width == pytest.approx(4.302653 / math.sqrt(3))
    assert (found.low, found.high) == (2 - found.half_width, 2 + found.half_width)
    assert not found.excludes_zero and Estimate.of([1.0, 1.1]).excludes_zero
    one = Estimate.of([4.0])
    assert one.mean == 4 and math.isnan(one.half_width) and not one.excludes_zero
    assert Estimate.of([]).count == 0


def test_quantiles_are_those_of_students_tables():
    assert t_quantile(1) == pytest.approx(12.706205, abs=1e-6)
    assert t_quantile(7) == pytest.approx(2.364624, abs=1e-6)
    assert t_quantile(10**6) == pytest.approx(1.959964, abs=1e-5)


def test_sign_flips_are_those_counted_by_hand():
    """Of 1, 2, 3 only +++ and --- sum to 6; of 3, 2, -1 the sums of 4 or more are 4 of 8."""
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([3.0, 2.0, -1.0])) == 4 / 8
    assert sign_flip_p(np.zeros(4)) == 1
    assert sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1


@pytest.mark.parametrize("count", [3, 8, 11])
def test_sign_flips_are_scipys_permutation_test(count):
    values = draws(count, seed=count) + 0.4
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(values) == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("count", [5, 8, 12])
def test_signed_ranks_are_scipys_wilcoxon(count):
    values = draws(count, seed=count) + 0.3
    expected = stats.wilcoxon(values, method="exact").pvalue
    assert sign_flip_p(signed_ranks(values)) == pytest.approx(expected, rel=1e-9)


def test_signed_ranks_with_ties_and_zeros_are_scipys_permutations_of_them():
    values = np.array([0, -2, 1, 2, 5, 3, 3, 4.0])
    every = stats.PermutationMethod(n_resamples=10**6)
    expected = stats.wilcoxon(values, method=every).pvalue
    assert sign_flip_p(signed_ranks(values)) == pytest.approx(expected, rel=1e-9)


def test_patterns_that_tie_count_whatever_their_rounding():
    """Integers over 7 hold the same ties as the integers, whose sums are exact."""
    for seed in range(50):
        whole = np.random.default_rng(seed).integers(-6, 9, 10).astype(float)
        assert sign_flip_p(whole / 7) == sign_flip_p(whole)


def test_tied_and_zero_differences_share_and_lose_their_ranks():
    found = signed_ranks(np.array([0.0, -2.0, 1.0, 2.0, 5.0]))
    assert found.tolist() == [0.0, -2.5, 1.0, 2.5, 4.0]


def test_drawn_patterns_come_near_the_counted_ones(monkeypatch):
    values = draws(12, seed=4) + 0.5
    exact = sign_flip_p(values)
    monkeypatch.setattr("launch.record.statistics.MOST_ENUMERATED", 4)
    assert sign_flip_p(values) == pytest.approx(exact, abs=5 * math.sqrt(exact / 1e5))
    assert sign_flip_p(np.full(40, 1.0)) == pytest.approx(1e-5, rel=1e-3)


def test_no_seed_count_beats_its_smallest_p():
    for count in range(1, 12):
        assert sign_flip_p(np.arange(1.0, count + 1)) == smallest_p(count)
    assert 5 * smallest_p(MIN_TEST_SEEDS) <= LEVEL < 5 * smallest_p(MIN_TEST_SEEDS - 1)


def test_holm_is_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.2]) == [0.2]


def test_effect_sizes():
    """d_z of 1, 2, 3 is 2 / 1; ranks of -1, 2, 3 give (5 - 1) / 6."""
    assert Paired.of([1.0, 2.0, 3.0]).cohens_d == pytest.approx(2)
    assert Paired.of([-1.0, 2.0, 3.0]).rank_biserial == pytest.approx(4 / 6)
    same = Paired.of([0.0] * 8)
    assert math.isnan(same.cohens_d) and math.isnan(same.rank_biserial) and same.sign_flip_p == 1
    assert Paired.of([-0.2, -0.1]).rank_biserial == -1


def test_few_seeds_get_no_test():
    assert Paired.of([0.1] * 7).sign_flip_p is None and Paired.of([0.1] * 7).wilcoxon_p is None
    eight = Paired.of([0.1 + 0.01 * i for i in range(8)])
    assert eight.sign_flip_p == eight.wilcoxon_p == 2**-7
    few, many = corrected([Paired.of([0.1, 0.2]), eight])
    assert few.corrected_p is None and many.corrected_p == 2 * 2**-7


def test_tests_keep_their_level_where_nothing_differs():
    """2000 null comparisons of 8 seeds: 5% of rejections at most, give or take three deviations."""
    values = draws(2000, 8, seed=1)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    sums = np.abs(np.abs(values) @ signs.T)
    p_values = (sums >= np.abs(values.sum(axis=1))[:, None] - 1e-9).mean(axis=1)
    assert p_values[:20].tolist() == [sign_flip_p(row) for row in values[:20]]
    assert np.mean(p_values <= LEVEL) <= LEVEL + 3 * math.sqrt(LEVEL / 2000)


def test_the_interval_covers_with_three_seeds_where_a_bootstrap_does_not():
    values = draws(3000, 3, seed=2)
    half = t_quantile(2) * values.std(axis=1, ddof=1) / math.sqrt(3)
    covered = np.mean(np.abs(values.mean(axis=1)) <= half)
    assert covered == pytest.approx(0.95, abs=0.012)
    patterns = np.array(list(itertools.product(range(3), repeat=3)))
    means = values[:, patterns].mean(axis=2)
    low, high = np.quantile(means, (0.025, 0.975), axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.8


def test_one_false_alarm_in_twenty_families_after_correction():
    """4 arms held against one baseline, so their differences depend on each other."""
    alarms, families = 0, 400
    runs = draws(families, 5, 8, seed=3)
    for run in runs:
        family = corrected([Paired.of(arm - run[0]) for arm in run[1:]])
        alarms += any(paired.corrected_p <= LEVEL for paired in family)
    assert alarms / families <= LEVEL + 3 * math.sqrt(LEVEL / families)


def test_sentences_say_what_was_found_and_no_more():
    better = corrected(
        [Paired.of([0.1 + 0.01 * i for i in range(8)]), Paired.of([0.01, -0.01] * 4)]
    )
    assert sentence(better[0], 2, "epoch").startswith("higher quality than epoch (+0.135, 95%")
    assert "p = 0.0156 over 8 paired seeds, corrected for 2 arms" in sentence(better[0], 2, "epoch")
    assert sentence(better[1], 2, "epoch").startswith("no difference shown to epoch")
    (worse,) = corrected([Paired.of([-0.1 - 0.01 * i for i in range(8)])])
    assert sentence(worse, 1, "epoch").startswith("lower quality")
    few = sentence(Paired.of([0.1, 0.101, 0.099]), 5, "epoch")
    assert few.startswith("higher quality than epoch in these runs (") and few.endswith(
        "3 paired seeds are too few for a test"
    )
    assert sentence(Paired.of([0.1, -0.1, 0.0]), 5, "epoch").startswith("no difference shown")
    assert sentence(Paired.of([0.1]), 5, "epoch") == "nothing shown: 1 paired seed"
    assert sentence(Paired.of([]), 5, "epoch") == "nothing shown: no paired seeds"


def test_the_reason_for_no_test_is_right_at_every_count():
    assert "out of reach with 3 paired seeds (at best p = 0.25, 1 over 5" in no_test_sentence(3, 5)
    assert "out of reach with 7" in no_test_sentence(7, 5)
    # Seven seeds can reach 5% for one arm, if every one of them agrees.
    assert "hardly in reach with 7 paired seeds (at best p = 0.0156)," in no_test_sentence(7, 1)
