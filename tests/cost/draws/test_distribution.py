import numpy as np
import pytest

from cost.draws.allocators.types import Allocation, Estimates, Snapshot
from cost.draws.distribution import DrawDistribution


def describe(probabilities, lengths):
    p, lengths = np.array(probabilities), np.array(lengths, float)
    estimates = Estimates(lengths, lengths + 1, lengths + 2, lengths + 3)
    return DrawDistribution.of(Snapshot(estimates, Allocation(p, 1 / p), None))


def test_distances_by_hand():
    even = describe([0.25] * 4, [1, 2, 3, 4])
    assert even.total_variation_from_uniform == 0 and even.expected_length_ratio == 1
    skew = describe([0.7, 0.1, 0.1, 0.1], [1, 2, 3, 4])
    assert skew.total_variation_from_uniform == pytest.approx(0.45)
    assert skew.expected_length_ratio == pytest.approx(1.6 / 2.5)


def test_cells_hold_every_prompt_once_and_all_probability():
    # Lengths 1, 4 and 5 begin or lie in cells 0, 4 and 4 of half doublings; rates are capped at 1.
    rates = np.array([0.35, 0.95, 1.0, 1.0])
    lengths = np.array([0.5, 4.0, 5.0, 16.0])
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    cells = DrawDistribution(probabilities, lengths, rates, rates, rates).cells()
    assert cells.length_cells.tolist() == [0, 4, 8]
    assert cells.pass_rate_cells.tolist() == [3, 9, 9]
    assert cells.num_prompts.tolist() == [1, 2, 1]
    assert cells.probabilities.tolist() == pytest.approx([0.1, 0.5, 0.4])


def test_says_what_the_snapshot_says():
    found = describe([0.7, 0.3], [4, 9])
    assert found.costs.tolist() == [5, 10] and found.pass_rates.tolist() == [6, 11]
    assert found.utilities.tolist() == [7, 12] and found.probabilities.tolist() == [0.7, 0.3]
