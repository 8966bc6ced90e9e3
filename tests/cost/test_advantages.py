import numpy as np
import pytest

from cost.advantages import GroupMean, GroupStandardised, LeaveOneOut

REWARDS = np.array([1.0, 0.0, 0.0, np.nan, 1.0, 1.0])
USABLE = ~np.isnan(REWARDS)


def test_group_mean():
    expected = [0.4, -0.6, -0.6, 0, 0.4, 0.4]
    np.testing.assert_allclose(GroupMean().advantages(REWARDS, USABLE), expected)


def test_group_standardised_divides_by_the_population_deviation():
    advantages = GroupStandardised(epsilon=0.0).advantages(REWARDS, USABLE)
    np.testing.assert_allclose(advantages[0], 0.4 / np.sqrt(0.24))
    assert np.mean(advantages[USABLE] ** 2) == pytest.approx(1)


def test_leave_one_out_compares_with_the_others():
    advantages = LeaveOneOut().advantages(REWARDS, USABLE)
    for j in np.flatnonzero(USABLE):
        others = [REWARDS[i] for i in np.flatnonzero(USABLE) if i != j]
        assert advantages[j] == pytest.approx(REWARDS[j] - np.mean(others))


@pytest.mark.parametrize("plug", [GroupMean(), GroupStandardised(), LeaveOneOut()])
@pytest.mark.parametrize("rewards", [[0.1] * 7, [np.nan, 0.3, np.nan], [np.nan] * 3, []])
def test_nothing_to_compare_gives_exact_zeros(plug, rewards):
    """0.1 seven times has a mean that is not 0.1 in floating point."""
    rewards = np.array(rewards, float)
    advantages = plug.advantages(rewards, ~np.isnan(rewards))
    assert advantages.dtype == np.float64
    assert advantages.tolist() == [0.0] * len(rewards)


def test_refuses():
    with pytest.raises(ValueError, match=r"advantage\.epsilon must not be negative, got -1"):
        GroupStandardised(epsilon=-1)
