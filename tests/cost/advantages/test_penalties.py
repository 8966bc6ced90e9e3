"""Penalties count against their group's mean, divided by nothing."""

import numpy as np
import pytest

from cost.advantages.penalties import excess_penalties, penalised
from cost.advantages.within_group import GroupMean, GroupStandardised, LeaveOneOut

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("plug", [GroupMean(), LeaveOneOut()])
def test_plugs_without_a_deviation_take_penalties_off_rewards(make_groups, plug):
    rewards, penalties = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    rewards[1, 2] = rewards[2, 1] = rewards[2, 3] = np.nan
    groups = make_groups(*rewards)
    found = penalised(plug.advantages(groups), groups, penalties.ravel(), plug.size_free)
    expected = plug.advantages(make_groups(*(rewards - penalties)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_equal_rewards_leave_noise_as_small_as_it_is(make_groups):
    groups = make_groups([1.0] * 8, [1.0] * 4 + [0.0] * 4)
    noise = 1e-5 * RNG.normal(size=16)
    plug = GroupStandardised()
    found = penalised(plug.advantages(groups), groups, noise, plug.size_free)
    assert 0 < np.abs(found[:8]).max() <= 2 * np.abs(noise).max()
    np.testing.assert_allclose(found[8:], [1.0] * 4 + [-1.0] * 4, atol=1e-4)


@pytest.mark.parametrize("size_free", [False, True])
def test_equal_penalties_and_lone_responses_are_no_change_at_all(make_groups, size_free):
    groups = make_groups([1.0, 0.0, 0.3], [0.7], [], [np.nan, 0.2], [np.nan])
    penalties = np.array([0.1, 0.1, 0.1, 5.0, 1.0, 2.0, 3.0])
    of_rewards = GroupMean().advantages(groups)
    found = penalised(of_rewards, groups, penalties, size_free)
    np.testing.assert_array_equal(found, of_rewards)


def test_excess_is_zero_where_not_usable():
    usable = np.array([True, False, True, False])
    found = excess_penalties(np.array([1.0, 9.0, 3.0, 4.0]), usable, np.array([3, 1]))
    assert found.tolist() == [-1.0, 0.0, 1.0, 0.0]
