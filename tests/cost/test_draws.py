"""Laws of the ways of drawing, checked exactly where the randomness can be integrated out."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.draws import EpochDraws, IndependentDraws, SystematicDraws, systematic_counts


def mean_over_starts(expected: np.ndarray, function) -> np.ndarray:
    """Integrate function(counts) over the start on [0, 1): it is constant between breakpoints."""
    edges = np.cumsum(expected)
    breaks = np.unique(np.concatenate([[0.0, 1.0], edges - np.floor(edges)]))
    middles, widths = (breaks[:-1] + breaks[1:]) / 2, np.diff(breaks)
    values = [function(systematic_counts(expected, start)) for start in middles]
    return sum(width * value for width, value in zip(widths, values, strict=True))


@given(st.lists(st.floats(0, 2.5), min_size=1, max_size=12))
@settings(deadline=None)
def test_systematic_counts_have_the_expected_mean(expected):
    expected = np.array(expected)
    np.testing.assert_allclose(mean_over_starts(expected, lambda c: c), expected, atol=1e-12)
    for start in (0.0, 0.3, 0.999):
        counts = systematic_counts(expected, start)
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
        assert abs(counts.sum() - expected.sum()) < 1 + 1e-9


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_known_total_is_met_whatever_rounding_does(size, total, start):
    p = np.random.default_rng(size).dirichlet(np.ones(size))
    assert systematic_counts(p * total, start, total=total).sum() == total


def test_weighted_systematic_batch_is_unbiased():
    p, gradients = np.array([0.05, 0.15, 0.3, 0.5]), np.array([3.0, -1.0, 2.0, 7.0])
    num_draws, weights = 3, 1 / (4 * p)

    means = [
        mean_over_starts(
            num_draws * p[list(order)],
            lambda counts, order=order: counts @ (weights * gradients)[list(order)] / num_draws,
        )
        for order in permutations(range(4))
    ]
    np.testing.assert_allclose(means, gradients.mean(), atol=1e-12)


def test_every_position_of_a_systematic_batch_has_the_draw_probability():
    p = np.array([0.6, 0.25, 0.15])
    rng = np.random.default_rng(0)
    batches = np.array([SystematicDraws().draw(None, p, 4, rng)[0] for _ in range(4000)])
    for position in range(4):
        share = np.bincount(batches[:, position], minlength=3) / len(batches)
        np.testing.assert_allclose(share, p, atol=0.04)  # 5 standard errors
    # A prompt whose expected count exceeds 1 is drawn 2 or 3 times, never 0.
    assert set((batches == 0).sum(axis=1)) == {2, 3}


def test_independent_draws_follow_the_probabilities():
    p = np.array([0.6, 0.25, 0.15])
    indices, _ = IndependentDraws().draw(None, p, 20000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(indices) / 20000, p, atol=0.02)


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_epoch_covers_each_prompt_once_a_pass(batch):
    size, draws = 10, EpochDraws()
    state, taken = draws.initial_state(size), []
    for step in range(60):
        rng = np.random.default_rng(step)
        indices, state = draws.draw(state, np.full(size, 1 / size), batch, rng)
        taken.extend(indices.tolist())
    passes = [taken[i : i + size] for i in range(0, len(taken) - size + 1, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert passes[0] != passes[1]


def test_epoch_mixes_added_prompts_into_the_pass():
    draws = EpochDraws()
    rng = np.random.default_rng(0)
    first, state = draws.draw(draws.initial_state(4), np.full(4, 0.25), 2, rng)
    rest, _ = draws.draw(state, np.full(6, 1 / 6), 4, rng)
    assert sorted([*first, *rest]) == list(range(6))


def test_epoch_refuses_other_probabilities():
    draws = EpochDraws()
    with pytest.raises(ValueError, match=r"allocator\.draws: EpochDraws needs uniform"):
        draws.draw(draws.initial_state(2), np.array([0.4, 0.6]), 1, np.random.default_rng(0))
