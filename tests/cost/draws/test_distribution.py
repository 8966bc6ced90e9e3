from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Allocation, Estimates, Snapshot
from cost.draws.distribution import DrawDistribution, take_snapshot
from cost.scheduler.scheduler import PLUGS
from cost.state import initial_state
from cost.worth.pass_rates import PassRates


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
    rates = np.array([0.0, 0.95, 1.0, 1.0])
    lengths = np.array([0.5, 4.0, 5.0, 16.0])
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    cells = DrawDistribution(probabilities, lengths, rates, rates, rates).cells()
    assert cells.length_cells.tolist() == [0, 4, 8]
    assert cells.pass_rate_cells.tolist() == [0, 9, 9]
    assert cells.num_prompts.tolist() == [1, 2, 1]
    assert cells.probabilities.tolist() == pytest.approx([0.1, 0.5, 0.4])


def test_says_what_the_snapshot_says():
    found = describe([0.7, 0.3], [4, 9])
    assert found.costs.tolist() == [5, 10] and found.pass_rates.tolist() == [6, 11]
    assert found.utilities.tolist() == [7, 12] and found.probabilities.tolist() == [0.7, 0.3]


@dataclass(frozen=True, slots=True)
class GroupPrice:
    """Cost of a response that shares its prompt with the others of its group."""

    def of_drawing(self, prompt_tokens, lengths, group_size):
        return prompt_tokens / group_size + lengths

    def of_training(self, prompt_tokens, lengths):
        return np.full(len(lengths), np.nan)


@dataclass(frozen=True, slots=True)
class Seen(SquareRoot):
    """Notes what it is asked to allocate by."""

    seen: ClassVar[list[object]] = []

    def allocate(self, estimates, state):
        self.seen[:] = [estimates, state]
        return SquareRoot.allocate(self, estimates, state)


def test_the_snapshot_joins_the_plugs(make_config, pool):
    """Draws are priced by `of_drawing` at the configured group size, never by `of_training`."""
    config = make_config(price=GroupPrice(), allocator=Seen())
    rates = PassRates(config.pass_rate_decay, config.pass_rate_prior_responses)
    states = {name: initial_state(getattr(config, name), pool) for name in PLUGS}
    states["pass_rates"] = rates.initial_state(pool)
    snapshot = take_snapshot(config, states, rates, pool, np.random.default_rng(0))
    estimates, state = Seen.seen
    assert snapshot.estimates is estimates and state == states["allocator"]
    assert snapshot.num_prompts == 4
    expected = np.array([10, 20, 30, 40]) / 4 + estimates.lengths
    np.testing.assert_array_equal(estimates.costs, expected)
    assert np.sort(snapshot.prepared.order).tolist() == [0, 1, 2, 3]
    edges = np.cumsum(snapshot.allocation.probabilities[snapshot.prepared.order])
    np.testing.assert_array_equal(snapshot.prepared.edges, edges)
    again = take_snapshot(config, states, rates, pool, np.random.default_rng(0))
    np.testing.assert_array_equal(again.prepared.order, snapshot.prepared.order)
