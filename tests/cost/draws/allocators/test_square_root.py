import numpy as np
import pytest

from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Estimates
from cost.draws.draws import EpochDraws, PassDraws


def allocate(allocator, utilities, costs):
    utilities, costs = np.array(utilities, float), np.array(costs, float)
    even = np.full(len(costs), 0.5)
    return allocator.allocate(Estimates(costs, costs, even, utilities), None)


def test_closed_form():
    """G = (1, 1), c = (1, 4): p = (2/3, 1/3), expected cost 2, second moment 4.5."""
    allocation = allocate(SquareRoot(floor=1e-12), [1, 1], [1, 4])
    p = allocation.probabilities
    np.testing.assert_allclose(p, [2 / 3, 1 / 3], rtol=1e-10)
    assert p @ [1, 4] == pytest.approx(2)
    assert (1 / p).sum() == pytest.approx(4.5)
    np.testing.assert_allclose(allocation.weights, 1 / (2 * p), rtol=1e-15)


def test_has_the_least_cost_times_second_moment():
    rng = np.random.default_rng(0)
    utilities, costs = rng.lognormal(0, 1, 30), rng.lognormal(0, 1, 30)

    def product(p):
        return (p @ costs) * (utilities / p).sum()

    best = product(allocate(SquareRoot(floor=1e-12), utilities, costs).probabilities)
    assert best == pytest.approx(np.sqrt(utilities * costs).sum() ** 2, rel=1e-9)
    for _ in range(100):
        assert product(rng.dirichlet(np.ones(30)) + 1e-9) >= best * (1 - 1e-9)


def test_floor_bounds_weights_and_keeps_worthless_prompts_alive():
    allocation = allocate(SquareRoot(floor=0.2), [0, 1, 5], [1, 1, 1e6])
    assert allocation.probabilities[0] == pytest.approx(0.2 / 3)
    assert allocation.weights.max() <= 1 / 0.2 + 1e-12


def test_no_utility_anywhere_is_uniform():
    np.testing.assert_allclose(allocate(SquareRoot(), [0, 0], [1, 9]).probabilities, 0.5)


def test_one_round_of_groups_of_one_size_is_the_batch(make_scheduler, run_batches, make_report):
    for played in run_batches(make_scheduler(allocator=SquareRoot()), make_report, 3):
        (drawn,) = played.rounds
        assert drawn.members == tuple(ticket.ticket_id for ticket in drawn.tickets)
        assert len(drawn.tickets) == 8 and drawn.carried == ()
        assert {(ticket.num_samples, ticket.trainable) for ticket in drawn.tickets} == {(4, True)}


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.1])
def test_refuses_floor(floor):
    with pytest.raises(ValueError, match=r"allocator\.floor must lie in \(0, 1\], got"):
        SquareRoot(floor=floor)


def test_refuses_draws_that_are_uniform_only():
    with pytest.raises(ValueError, match=r"allocator\.draws must be able .* got 'EpochDraws'"):
        SquareRoot(draws=EpochDraws())
    with pytest.raises(ValueError, match=r"allocator\.draws must be able .* got 'PassDraws'"):
        SquareRoot(draws=PassDraws())
