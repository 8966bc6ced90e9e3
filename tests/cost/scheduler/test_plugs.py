"""Plugs with their states: what is asked of which, and that nothing changes behind a back."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cost.draws.allocators.square_root import SquareRoot
from cost.scheduler.plugs import Plugs


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
    plugs = Plugs.of(config, pool)
    snapshot = plugs.snapshot(pool, config.group_size, np.random.default_rng(0))
    estimates, state = Seen.seen
    assert snapshot.estimates is estimates and state == plugs.states["allocator"]
    assert snapshot.num_prompts == 4
    expected = np.array([10, 20, 30, 40]) / 4 + estimates.lengths
    np.testing.assert_array_equal(estimates.costs, expected)
    assert np.sort(snapshot.prepared.order).tolist() == [0, 1, 2, 3]
    edges = np.cumsum(snapshot.allocation.probabilities[snapshot.prepared.order])
    np.testing.assert_array_equal(snapshot.prepared.edges, edges)
    again = plugs.snapshot(pool, config.group_size, np.random.default_rng(0))
    np.testing.assert_array_equal(again.prepared.order, snapshot.prepared.order)


def test_learning_leaves_the_plugs_before_as_they_were(make_config, pool, make_visit):
    before = Plugs.of(make_config(), pool)
    lengths = before.lengths(pool)
    after = before.folded(pool, [make_visit(1, [10, 11, 12])])
    np.testing.assert_array_equal(before.lengths(pool), lengths)
    assert after.lengths(pool)[1] < lengths[1]


def test_state_round_trip(make_config, pool, make_visit):
    plugs = Plugs.of(make_config(), pool).folded(pool, [make_visit(2, [5, 6, 7])])
    other = Plugs.of(make_config(), pool).loaded(plugs.state_dict())
    np.testing.assert_array_equal(other.lengths(pool), plugs.lengths(pool))
