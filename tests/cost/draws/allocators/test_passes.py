import numpy as np
import pytest

from cost.draws.allocators.passes import Passes, capped
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import BatchSoFar, Estimates, Snapshot
from cost.draws.draws import EpochDraws


def allocate(allocator, utilities, costs):
    utilities, costs = np.array(utilities, float), np.array(costs, float)
    return allocator.allocate(Estimates(costs, costs, np.full(len(costs), 0.5), utilities), None)


def test_capped_closed_forms():
    np.testing.assert_allclose(capped(np.array([1.0, 2.0, 3.0]), 0.3), [0.15, 0.3, 0.45])
    np.testing.assert_allclose(capped(np.array([1.0, 1.0, 8.0]), 0.5), [0.25, 0.25, 1.0])
    np.testing.assert_allclose(capped(np.array([1.0, 3.0, 4.0]), 0.8), [0.4, 1.0, 1.0])
    np.testing.assert_allclose(capped(np.array([1.0, 3.0, 4.0]), 1.0), 1.0)


@pytest.mark.parametrize("share", [0.3, 0.65, 0.9])
def test_no_chances_of_the_same_cost_have_less_variance(share):
    """The rule is the best of all chances that cost a pass as much, whatever the means B."""
    rng = np.random.default_rng(0)
    utilities, costs = rng.lognormal(0, 1, 30), rng.lognormal(0, 1, 30)
    p = allocate(Passes(share=share, floor=1e-9), utilities, costs).probabilities
    best = p / p.max()
    assert (best <= 1).all()
    for _ in range(300):
        other = best * rng.lognormal(0, 0.3, 30)
        for _ in range(50):
            other = np.minimum(other * (best @ costs) / (other @ costs), 1.0)
        if other @ costs <= (best @ costs) * (1 + 1e-9):
            assert (utilities / other).sum() >= (utilities / best).sum() * (1 - 1e-6)


def test_share_1_and_no_knowledge_are_epochs():
    for allocator, utilities in ((Passes(share=1.0), [1, 5, 9]), (Passes(), [0, 0, 0])):
        allocation = allocate(allocator, utilities, [1, 4, 2])
        np.testing.assert_allclose(allocation.probabilities, 1 / 3)
        np.testing.assert_allclose(allocation.weights, 1.0)


@pytest.mark.parametrize("floor", [0.05, 0.2, 0.9, 1.0])
def test_where_no_prompt_is_sure_of_its_coin_the_rule_is_the_square_root_s(floor):
    utilities, costs = [0, 1, 4, 9], [1, 1, 2, 30]
    found = allocate(Passes(floor=floor, share=0.01), utilities, costs)
    expected = allocate(SquareRoot(floor=floor), utilities, costs)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-9)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-9)


@pytest.mark.parametrize("floor", [0.2, 1.0])
def test_floor_bounds_weights(floor):
    allocation = allocate(Passes(floor=floor), [0, 0, 1, 5], [1, 1e6, 1, 1])
    assert allocation.weights.max() <= 1 / floor + 1e-9


@pytest.mark.parametrize("worth", [False, True])
@pytest.mark.parametrize("dead", [0.5, 0.8])
def test_steps_keep_their_scale_while_a_pass_learns(dead, worth):
    """What a visit shows changes the chances of the prompts that were met, and not of the others.

    Estimated is a mean of ones, or of the worth itself, which the chances go by.
    """
    size, batch, steps, seeds = 512, 16, 60, 60
    allocator, means, truths = Passes(), np.zeros((seeds, steps)), np.zeros(seeds)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        true = (rng.random(size) >= dead).astype(float)
        values = true if worth else np.ones(size)
        believed, state = np.full(size, 0.6), allocator.draws.initial_state(size)
        truths[seed] = values.mean()
        for step in range(steps):
            estimates = Estimates(*np.full((2, size), 100.0), np.full(size, 0.5), believed.copy())
            allocation = allocator.allocate(estimates, state)
            snapshot = Snapshot(estimates, allocation, allocator.prepare(allocation, rng))
            so_far = BatchSoFar(batch, 8, [], [], {}, ())
            drawn, state = allocator.next_round(so_far, snapshot, rng, state)
            means[seed, step] = (drawn.weights * values[drawn.indices]).mean()
            believed[drawn.indices] = true[drawn.indices]
    # Blocks of ten steps; the first pass ends after some thirty.
    blocks = (means / truths[:, None]).reshape(seeds, -1, 10).mean(axis=2)
    error = blocks.std(axis=0) / np.sqrt(seeds)
    assert (error < 0.02).all() and (np.abs(blocks.mean(axis=0) - 1) < 4 * error + 0.005).all()


def test_refuses():
    with pytest.raises(ValueError, match=r"allocator\.share must lie in \(0, 1\], got 0"):
        Passes(share=0)
    with pytest.raises(ValueError, match=r"allocator\.draws must be PassDraws, got 'EpochDraws'"):
        Passes(draws=EpochDraws())
