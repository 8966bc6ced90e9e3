"""A plug that answers what its contract forbids is named, with what was wrong."""

import numpy as np
import pytest
import torch

from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Allocation
from cost.scheduler.answers import (
    checked_allocation,
    checked_factors,
    checked_thinning,
    numbers,
)
from cost.scheduler.plugs import Plugs
from cost.thinning.thinning import Thinning


@pytest.mark.parametrize(
    "answer", [[1, 2], (1.0, 2.0), np.array([1, 2]), torch.tensor([1.0, 2.0]), np.float32([1, 2])]
)
def test_numbers_come_as_any_array(answer):
    found = numbers("scheduler.proxy: scores", answer, 2, signed=False)
    assert found.dtype == np.float64 and found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.ones(2), r"must be 3 numbers in an array of shape \(3,\), got shape \(2,\)"),
        (np.ones((3, 1)), r"must be 3 numbers in an array of shape \(3,\), got shape \(3, 1\)"),
        (None, r"must be 3 numbers in an array of shape \(3,\), got shape \(\)"),
        ({"a": 1}, r"must be 3 numbers in an array, got dict"),
        (torch.ones(3, requires_grad=True), r"must be 3 numbers in an array, got Tensor"),
        (np.array([1, np.nan, 1]), r"must be finite and not negative, got nan at place 1"),
        (np.array([1, 1, np.inf]), r"must be finite and not negative, got inf at place 2"),
        (np.array([-0.5, 1, 1]), r"must be finite and not negative, got -0.5 at place 0"),
    ],
)
def test_other_numbers_are_refused(answer, said):
    with pytest.raises(ValueError, match=rf"^scheduler\.proxy: scores {said}"):
        numbers("scheduler.proxy: scores", answer, 3, signed=False)


def test_signed_numbers_may_be_negative():
    assert numbers("scheduler.advantage: advantages", [-1.0], 1).tolist() == [-1.0]
    with pytest.raises(ValueError, match=r"^scheduler\.advantage: advantages must be finite, got"):
        numbers("scheduler.advantage: advantages", [np.nan], 1)


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ([0.5, 0.25, 0.15], r"must sum to 1: divide them by their sum, got 0\.9"),
        ([1.2, -0.3, 0.1], r"must be finite and not negative, got -0\.3 at place 1"),
        ([0.5, 0.5], r"must be 3 numbers"),
    ],
)
def test_draws_are_made_by_probabilities_only(probabilities, said):
    with pytest.raises(ValueError, match=rf"^scheduler\.allocator: probabilities {said}"):
        checked_allocation(Allocation(np.array(probabilities), np.ones(3)), 3)


def test_an_allocation_has_weights_and_is_one():
    uniform = np.full(3, 1 / 3)
    with pytest.raises(ValueError, match=r"^scheduler\.allocator: weights must be finite"):
        checked_allocation(Allocation(uniform, np.array([1, np.inf, 1])), 3)
    with pytest.raises(ValueError, match=r"^scheduler\.allocator: allocate must return .* tuple"):
        checked_allocation((uniform, np.ones(3)), 3)
    # What float32 makes of probabilities is near enough.
    checked_allocation(Allocation(np.float32(uniform), np.ones(3)), 3)


def test_factors_are_those_of_every_group():
    assert [each.tolist() for each in checked_factors([[1, 2], [3]], [2, 1])] == [[1, 2], [3]]
    with pytest.raises(ValueError, match=r"^scheduler\.aggregation: .* 2 arrays.* got ndarray"):
        checked_factors(np.ones(3), [2, 1])
    with pytest.raises(ValueError, match=r"^scheduler\.aggregation: factors of a group must be 1"):
        checked_factors([[1, 2], [3, 4]], [2, 1])


@pytest.mark.parametrize(
    ("thinning", "said"),
    [
        (Thinning(np.array([True, False]), np.array([0.0, 0.0])), r"probabilities must lie in"),
        (Thinning(np.array([True, False]), np.array([1.5, 0.0])), r"probabilities must lie in"),
        (Thinning(np.array([1, 0]), np.array([0.5, 0.5])), r"keep must be 2 truth values"),
        (Thinning(np.array([True]), np.array([0.5, 0.5])), r"keep must be 2 truth values"),
        (Thinning(np.array([True]), np.array([0.5])), r"probabilities must be 2 numbers"),
        (np.array([True, False]), r"thin must return a cost\.thinning\.thinning\.Thinning"),
    ],
)
def test_responses_are_kept_with_a_chance(thinning, said):
    with pytest.raises(ValueError, match=rf"^scheduler\.thinning: {said}"):
        checked_thinning(thinning, 2)


class Unscaled(SquareRoot):
    """Forgets to divide by the sum."""

    def allocate(self, estimates, state):
        shares = 1 / estimates.costs
        return Allocation(shares, 1 / (len(shares) * shares))


def test_a_snapshot_is_not_made_of_a_wrong_allocation(make_config, pool):
    config = make_config(allocator=Unscaled())
    with pytest.raises(ValueError, match=r"^scheduler\.allocator: probabilities must sum to 1"):
        Plugs.of(config, pool).snapshot(pool, config.group_size, np.random.default_rng(0))
