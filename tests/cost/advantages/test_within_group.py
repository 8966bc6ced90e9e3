import numpy as np
import pytest

from cost.advantages.within_group import (
    EntropyAware,
    GroupMean,
    GroupStandardised,
    LeaveOneOut,
    VirtualBest,
)

GROUPS = ([1.0, 0.0, 0.0, np.nan, 1.0, 1.0], [0.25, 0.75], [0.5])


def test_group_mean(make_groups):
    expected = [0.4, -0.6, -0.6, 0, 0.4, 0.4, -0.25, 0.25, 0]
    np.testing.assert_allclose(GroupMean().advantages(make_groups(*GROUPS)), expected)


@pytest.mark.parametrize("ddof", [0, 1])
def test_group_standardised_divides_by_the_deviation(make_groups, ddof):
    found = GroupStandardised(epsilon=0.0, ddof=ddof).advantages(make_groups(*GROUPS))
    for start, group in ((0, GROUPS[0]), (6, GROUPS[1])):
        rewards = np.array(group)
        expected = (rewards - np.nanmean(rewards)) / np.nanstd(rewards, ddof=ddof)
        np.testing.assert_allclose(found[start : start + len(group)], np.nan_to_num(expected))
    assert found[8] == 0


def test_leave_one_out_compares_with_the_others(make_groups):
    found = LeaveOneOut().advantages(make_groups(*GROUPS))
    rewards = np.array(GROUPS[0])
    for j in np.flatnonzero(~np.isnan(rewards)):
        assert found[j] == pytest.approx(rewards[j] - np.nanmean(np.delete(rewards, j)))
    assert found[6:].tolist() == [-0.5, 0.5, 0]


@pytest.mark.parametrize(
    "plug",
    [EntropyAware(), GroupMean(), GroupStandardised(), GroupStandardised(0.0, 1), LeaveOneOut()],
)
def test_nothing_to_compare_gives_exact_zeros(make_groups, plug):
    groups = make_groups([0.1] * 7, [], [np.nan, 0.3, np.nan], [np.nan] * 3, [-2.0] * 3)
    assert plug.advantages(groups).tolist() == [0.0] * 16


def test_epsilon_is_beside_the_deviation(make_groups):
    """As large as the deviation it halves advantages; near-equal rewards are not blown up."""
    groups = make_groups([1.0, 0.0, 0.0, 1.0])
    found = GroupStandardised(epsilon=0.5).advantages(groups)
    assert found.tolist() == [0.5, -0.5, -0.5, 0.5]
    close = GroupStandardised(epsilon=0.5).advantages(make_groups([0.5, 0.5 + 1e-6]))
    assert np.abs(close).max() < 1e-5


def test_entropy_makes_advantages_larger_where_tools_left_the_policy_unsure(make_groups):
    changes = [3.0, 1.0, 1.0, 3.0, 9.0, 0.0, 0.0, 5.0]
    groups = make_groups([1.0, 1.0, 0.0, 0.0, np.nan], [1.0, 0.0, 0.0], entropy_changes=changes)
    found = EntropyAware(weight=0.5, epsilon=0.0).advantages(groups)
    # Of the first four the mean is 2 and the deviation 1, what is not usable left out.
    assert found[:5].tolist() == pytest.approx([1.5, 0.5, -0.5, -1.5, 0.0])
    plain = GroupStandardised(epsilon=0.0).advantages(groups)
    z = (np.array([0.0, 0.0, 5.0]) - 5 / 3) / np.std([0.0, 0.0, 5.0])
    np.testing.assert_allclose(found[5:], plain[5:] * (1 + 0.5 * z))
    # A factor is never negative, and without a difference, or turns, nothing changes.
    heavy = EntropyAware(weight=9.0).advantages(groups)
    assert (heavy * plain >= 0).all() and heavy[1:3].tolist() == [0.0, 0.0]
    for same in ([2.0] * 8, None):
        alike = make_groups([1.0, 1.0, 0.0, 0.0, np.nan], [1.0, 0.0, 0.0], entropy_changes=same)
        np.testing.assert_array_equal(
            EntropyAware().advantages(alike), GroupStandardised().advantages(alike)
        )


def test_virtual_best_of_groups_that_are_all_wrong_or_all_right(make_groups):
    plug = VirtualBest(epsilon=0.0)
    found = plug.advantages(make_groups([0.0] * 8, [1.0] * 8, [0.0], [1.0]))
    np.testing.assert_allclose(found[:8], -1 / 3, rtol=1e-12)
    assert found[8:16].tolist() == [0.0] * 8
    assert found[16] == pytest.approx(-np.sqrt(0.5)) and found[17] == 0
    assert VirtualBest().advantages(make_groups([0.0] * 8))[0] == pytest.approx(-1 / 3, abs=2e-6)
    assert not np.isclose(found[0], -0.354, atol=1e-3)  # what the population deviation gives


def test_virtual_best_is_in_the_statistics_of_mixed_groups_too(make_groups):
    found = VirtualBest(epsilon=0.0).advantages(make_groups([1.0, 0.0, np.nan, 0.0]))
    with_it = np.array([1.0, 0.0, 0.0, 1.0])
    expected = (with_it - with_it.mean()) / with_it.std(ddof=1)
    np.testing.assert_allclose(found, [*expected[:2], 0.0, expected[2]])
    assert (VirtualBest().advantages(make_groups([np.nan] * 3)) == 0).all()


@pytest.mark.parametrize(
    ("plug", "settings", "message"),
    [
        (GroupStandardised, {"epsilon": -1}, r"^advantage\.epsilon must not be negative, got -1"),
        (GroupStandardised, {"ddof": 2}, r"^advantage\.ddof must be 0 or 1, got 2"),
        (VirtualBest, {"epsilon": np.nan}, r"^advantage\.epsilon must .* got nan"),
        (GroupStandardised, {"epsilon": np.inf}, r"^advantage\.epsilon must be finite, got inf"),
        (VirtualBest, {"best_reward": np.inf}, r"^advantage\.best_reward must be finite, got inf"),
    ],
)
def test_refuses(plug, settings, message):
    with pytest.raises(ValueError, match=message):
        plug(**settings)
