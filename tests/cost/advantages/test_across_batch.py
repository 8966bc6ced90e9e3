import numpy as np
import pytest

from cost.advantages.across_batch import (
    BatchDeviation,
    BatchStandardised,
    Consistency,
    answer_entropies,
)
from cost.advantages.within_group import GroupMean, GroupStandardised

GROUPS = ([1.0, 0.0, 0.0, np.nan], [], [0.5, 1.0], [0.0] * 3, [np.nan])
FLAT = np.concatenate(GROUPS)
OK = ~np.isnan(FLAT)


def test_batch_deviation_is_one_divisor_for_all_groups(make_groups):
    groups = make_groups(*GROUPS)
    differences = GroupMean().advantages(groups)
    found = BatchDeviation(epsilon=0.0).advantages(groups)
    np.testing.assert_allclose(found, differences / differences[OK].std())
    assert found[OK].std() == pytest.approx(1)


def test_batch_standardised_is_numpys(make_groups):
    found = BatchStandardised(epsilon=0.0).advantages(make_groups(*GROUPS))
    expected = (FLAT - FLAT[OK].mean()) / FLAT[OK].std()
    np.testing.assert_allclose(found, np.where(OK, expected, 0))
    assert (found[6:9] < 0).all()  # the group that is all wrong


@pytest.mark.parametrize("plug", [BatchDeviation(), BatchStandardised(), Consistency()])
def test_a_batch_of_equal_rewards_gives_exact_zeros(make_groups, plug):
    assert plug.advantages(make_groups([0.1] * 7, [0.1] * 2, [], [np.nan])).tolist() == [0.0] * 10
    assert plug.advantages(make_groups([], [])).shape == (0,)


def test_entropy_of_answers(make_groups):
    answers = [0, 1, 1, 3, *range(8), *[0] * 8, 0, 0]
    rewards = [1.0, 0.0, 0.0, np.nan], [0.0] * 8, [1.0] * 8, [], [np.nan, 0.0]
    found = answer_entropies(make_groups(*rewards, answers=answers))
    expected = -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3
    np.testing.assert_allclose(found, [expected, np.log(8), 0, 0, 0])


def test_consistency_weighs_by_entropy(make_groups):
    groups = make_groups([1.0] + [0.0] * 7, [1.0] + [0.0] * 7, answers=[*range(8), *[0] * 8])
    shares = Consistency().local_shares(groups)
    assert shares[0] == pytest.approx(1 / (1 + np.exp(-20 * (np.log(8) - 1.5))), rel=1e-12)
    assert shares[0] > 0.99999 and shares[1] == pytest.approx(9.36e-14, rel=1e-2)
    assert Consistency(threshold=np.log(8)).local_shares(groups)[0] == pytest.approx(0.5)


def test_consistency_is_local_where_answers_differ_and_global_where_they_agree(make_groups):
    rewards = [1.0] + [0.0] * 7, [1.0] * 8, [0.0] * 8
    groups = make_groups(*rewards, answers=[*range(8), *[0] * 16])
    found = Consistency(epsilon=0.0).advantages(groups)
    local = GroupStandardised(epsilon=0.0).advantages(groups)
    np.testing.assert_allclose(found[:8], local[:8], atol=1e-4)
    returns = np.array([1 / 8, 1.0, 0.0])
    returns = (returns - returns.mean()) / returns.std()
    np.testing.assert_allclose(found[8:], np.repeat(returns[1:], 8), rtol=1e-9)
    half = Consistency(epsilon=0.0, threshold=float(np.log(8))).advantages(groups)
    np.testing.assert_allclose(half[:8], (local[:8] + returns[0]) / 2)


def test_prompts_are_compared_by_their_means_with_epsilon_beside_the_deviation(make_groups):
    """Also one of which a single response is usable; one of which none is does not count."""
    rewards = [1.0, 1.0], [0.0, 0.0], [np.nan, 1.0], [np.nan], [0.5, 0.5]
    found = Consistency(epsilon=0.25).advantages(make_groups(*rewards, answers=[0] * 9))
    means = np.array([1.0, 0.0, 1.0, 0.5])
    returns = (means - means.mean()) / (means.std() + 0.25)
    expected = [*returns[[0, 0, 1, 1]], 0, returns[2], 0, *returns[[3, 3]]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("plug", "settings", "message"),
    [
        (BatchDeviation, {"epsilon": -1}, r"^advantage\.epsilon must not be negative"),
        (BatchStandardised, {"epsilon": -1}, r"^advantage\.epsilon must not be negative"),
        (Consistency, {"epsilon": -1}, r"^advantage\.epsilon must not be negative"),
        (Consistency, {"steepness": 0}, r"^advantage\.steepness must be positive, got 0"),
        (Consistency, {"threshold": -1}, r"^advantage\.threshold must not be negative, got -1"),
    ],
)
def test_refuses(plug, settings, message):
    with pytest.raises(ValueError, match=message):
        plug(**settings)
