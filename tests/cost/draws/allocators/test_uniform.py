import numpy as np

from cost.draws.allocators.types import BatchSoFar, Estimates, Snapshot
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws


def snapshot(allocator, num_prompts):
    even = np.ones(num_prompts)
    estimates = Estimates(even, np.arange(1.0, num_prompts + 1), even / 2, even)
    allocation = allocator.allocate(estimates, allocator.draws.initial_state(num_prompts))
    prepared = allocator.prepare(allocation, np.random.default_rng(0))
    return Snapshot(estimates, allocation, prepared)


def test_weights_are_exactly_one():
    allocation = snapshot(Uniform(), 3).allocation
    assert allocation.weights.tolist() == [1.0, 1.0, 1.0]
    assert allocation.probabilities.tolist() == [1 / 3] * 3


def test_one_round_of_groups_of_one_size_is_the_batch():
    allocator = Uniform(draws=EpochDraws())
    state, seen = allocator.draws.initial_state(6), []
    for batch in range(3):
        so_far = BatchSoFar(4, 8, [], [], {}, ())
        rng = np.random.default_rng(batch)
        drawn, state = allocator.next_round(so_far, snapshot(allocator, 6), rng, state)
        assert drawn.final and drawn.trainable and not drawn.gradient_norms
        assert drawn.group_sizes.tolist() == [8, 8, 8, 8]
        assert drawn.weights.tolist() == [1.0] * 4
        np.testing.assert_array_equal(drawn.probabilities, 1 / 6)
        seen += drawn.indices.tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
