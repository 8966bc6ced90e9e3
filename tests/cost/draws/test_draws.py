"""Laws of the ways of drawing, checked exactly where the randomness can be integrated out."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost.draws.draws import (
    EpochDraws,
    EpochState,
    IndependentDraws,
    LaidOut,
    PassDraws,
    SystematicDraws,
    systematic_counts,
)

P = np.array([0.6, 0.25, 0.15])
SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=12).map(lambda x: np.array(x) / sum(x))


class Scripted:
    """Stands in for a generator: gives the start and the order it is told."""

    def __init__(self, start=0.0, order=None):
        self.start, self.order = start, order

    def random(self, size=None):
        return self.start if size is None else np.broadcast_to(self.start, size)

    def permutation(self, items):
        items = np.arange(items) if isinstance(items, int) else items
        return items if self.order is None else items[list(self.order)]


def lay_out(p, order=None) -> LaidOut:
    return SystematicDraws().prepare(p, Scripted(order=order))


def pieces(edges, num_draws):
    """Cut the starts on [0, 1) where some point passes an edge: middles and widths."""
    passes = num_draws * np.asarray(edges)
    breaks = np.unique(np.concatenate([[0.0, 1.0], passes - np.floor(passes)]))
    return (breaks[:-1] + breaks[1:]) / 2, np.diff(breaks)


def systematic_mean(prepared: LaidOut, num_draws, function, order=None):
    """Integrate function(indices) of a batch over its start, the shuffle fixed."""
    middles, widths = pieces(prepared.edges, num_draws)
    total = 0.0
    for start, width in zip(middles, widths, strict=True):
        rng = Scripted(start, order)
        total += width * function(SystematicDraws().draw(None, prepared, num_draws, rng)[0])
    return total


def mean_over_starts(expected: np.ndarray, function) -> np.ndarray:
    """Integrate function(counts) over the start on [0, 1): it is constant between breakpoints."""
    middles, widths = pieces(np.cumsum(expected), 1)
    values = [function(systematic_counts(expected, start)) for start in middles]
    return sum(width * value for width, value in zip(widths, values, strict=True))


@given(st.lists(st.floats(0, 2.5), min_size=1, max_size=12))
def test_systematic_counts_have_the_expected_mean(expected):
    expected = np.array(expected)
    np.testing.assert_allclose(mean_over_starts(expected, lambda c: c), expected, atol=1e-12)
    for start in (0.0, 0.3, 0.999):
        counts = systematic_counts(expected, start)
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
        assert abs(counts.sum() - expected.sum()) < 1 + 1e-9


@given(SHARES, st.integers(1, 9), st.integers(0, 99))
def test_systematic_batch_has_the_expected_counts(p, num_draws, seed):
    """Each layout alone: the mean over starts is m p, and no count is 1 or more away from it."""
    size = len(p)
    prepared = lay_out(p, np.random.default_rng(seed).permutation(size))

    def counts(indices):
        counted = np.bincount(indices, minlength=size)
        assert (np.abs(counted - num_draws * p) < 1 + 1e-9).all()
        assert len(indices) == num_draws
        return counted

    mean = systematic_mean(prepared, num_draws, counts)
    np.testing.assert_allclose(mean, num_draws * p, atol=1e-9)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_every_position_of_a_systematic_batch_has_the_draw_probability(order, num_draws):
    """Exactly: the start integrated, the shuffle enumerated, for every layout."""
    prepared, shuffles = lay_out(P, order), list(permutations(range(num_draws)))
    law = sum(
        systematic_mean(prepared, num_draws, lambda indices: np.eye(3)[indices], shuffle)
        for shuffle in shuffles
    )
    np.testing.assert_allclose(law / len(shuffles), np.tile(P, (num_draws, 1)), atol=1e-12)


def test_weighted_systematic_batch_is_unbiased():
    p, gradients = np.array([0.05, 0.15, 0.3, 0.5]), np.array([3.0, -1.0, 2.0, 7.0])
    weights = 1 / (4 * p)
    means = [
        systematic_mean(lay_out(p, order), 3, lambda batch: (weights * gradients)[batch].mean())
        for order in permutations(range(4))
    ]
    np.testing.assert_allclose(means, gradients.mean(), atol=1e-12)


@given(SHARES)
def test_independent_draws_have_the_draw_probability(p):
    """Exactly: the share of [0, 1) that gives each prompt, from where the answer changes."""
    draws = IndependentDraws()
    prepared = draws.prepare(p, np.random.default_rng(0))
    edges = np.concatenate([[0.0], prepared])
    for index, (left, right) in enumerate(pairwise(edges)):
        inside = left + (right - left) * np.array([1e-6, 0.5, 1 - 1e-6])
        for start in inside / edges[-1]:
            assert (draws.draw(None, prepared, 4, Scripted(start))[0] == index).all()
    np.testing.assert_allclose(np.diff(edges) / edges[-1], p, rtol=1e-9)


@pytest.mark.parametrize("draws", [IndependentDraws(), SystematicDraws()], ids=repr)
def test_one_layout_serves_many_batches(draws):
    """Every position of every batch follows p, and batches do not repeat each other."""
    prepared = draws.prepare(P, np.random.default_rng(0))
    batches = np.array(
        [draws.draw(None, prepared, 4, np.random.default_rng([1, k]))[0] for k in range(4000)]
    )
    for position in range(4):
        share = np.bincount(batches[:, position], minlength=3) / len(batches)
        np.testing.assert_allclose(share, P, atol=0.04)  # 5 standard errors
    first, second = batches[:-1, 0], batches[1:, 0]
    together = np.mean((first == 0) & (second == 0))
    assert together == pytest.approx(0.6**2, abs=0.04)
    most = (batches == 0).sum(axis=1)
    if isinstance(draws, SystematicDraws):
        # A prompt whose expected count exceeds 1 is drawn 2 or 3 times, never 0.
        assert set(most) == {2, 3}
    else:
        assert set(most) == {0, 1, 2, 3, 4}


def test_layouts_differ():
    rng = np.random.default_rng(0)
    orders = {tuple(SystematicDraws().prepare(P, rng).order) for _ in range(200)}
    assert orders == set(permutations(range(3)))


@pytest.mark.parametrize("start", [0.0, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("draws", [IndependentDraws(), SystematicDraws()], ids=repr)
def test_a_prompt_without_probability_is_never_drawn(draws, start):
    """Nor one beyond the last, where (u + m - 1) / m rounds to 1."""
    for p in ([0.0, 0.4, 0.0, 0.6, 0.0], [0.1] * 10 + [0.0], [1.0, 0.0]):
        prepared = draws.prepare(np.array(p), Scripted())
        indices, _ = draws.draw(None, prepared, 3, Scripted(start))
        assert (np.array(p)[indices] > 0).all()


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_epoch_covers_each_prompt_once_a_pass(batch):
    size, draws = 10, EpochDraws()
    prepared = draws.prepare(np.full(size, 1 / size), np.random.default_rng(0))
    state, taken = draws.initial_state(size), []
    for step in range(60):
        indices, state = draws.draw(state, prepared, batch, np.random.default_rng(step))
        assert indices.shape == (batch,)
        taken.extend(indices.tolist())
    passes = [taken[i : i + size] for i in range(0, len(taken) - size + 1, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert passes[0] != passes[1]


def test_epoch_refuses_other_probabilities():
    with pytest.raises(ValueError, match=r"allocator\.draws: EpochDraws needs uniform"):
        EpochDraws().prepare(np.array([0.4, 0.6]), np.random.default_rng(0))
    # One in 10000 is drawn a thousandth more often than the others.
    p = np.ones(10_000)
    p[7] = 1.001
    with pytest.raises(ValueError, match=r"got a largest of 1\.00"):
        EpochDraws().prepare(p / p.sum(), np.random.default_rng(0))


@pytest.mark.parametrize("draws", [IndependentDraws(), SystematicDraws(), EpochDraws()], ids=repr)
def test_no_draws_are_no_prompts(draws):
    rng, state = np.random.default_rng(0), draws.initial_state(4)
    prepared = draws.prepare(np.full(4, 0.25), rng)
    indices, after = draws.draw(state, prepared, 0, rng)
    assert indices.dtype == np.int64 and indices.shape == (0,)
    again, _ = draws.draw(after, prepared, 4, rng)
    assert again.shape == (4,)


def test_a_pass_takes_each_prompt_at_most_once_with_the_chance_of_its_coin():
    """Prompt 0 is in every pass, so no other can be ahead of it by more than one."""
    p = np.array([0.4, 0.2, 0.2, 0.1, 0.1])
    draws, rng = PassDraws(), np.random.default_rng(0)
    chances, state, drawn = draws.prepare(p, rng), draws.initial_state(5), []
    np.testing.assert_allclose(chances, p / 0.4)
    for size in (1, 7, 1, 40) * 400:
        indices, weights, state = draws.draw_weighted(state, chances, size, rng)
        assert len(indices) == len(weights) == size
        drawn += indices.tolist()
    counts = np.cumsum(np.eye(5)[drawn], axis=0)
    assert (counts - counts[:, :1]).max() <= 1
    np.testing.assert_allclose(counts[-1] / len(drawn), p, atol=0.01)


def test_weighted_passes_are_unbiased_for_the_mean():
    p, g = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, -2.0, 5.0, 7.0])
    draws, rng = PassDraws(), np.random.default_rng(2)
    chances, state = draws.prepare(p, rng), draws.initial_state(4)
    indices, weights, state = draws.draw_weighted(state, chances, 40_000, rng)
    assert (weights * g[indices]).mean() == pytest.approx(g.mean(), abs=0.05)


def test_weights_are_of_the_unmet_prompts_and_in_a_new_pass_of_all():
    """The three that are unmet are sure to be taken, so that it is known where the pass ends."""
    rng = np.random.default_rng(4)
    chances, state = np.linspace(0.2, 0.9, 12), EpochState(rng.permutation(12), cursor=9)
    unmet = state.permutation[9:]
    chances[unmet] = 1.0
    indices, weights, _ = PassDraws().draw_weighted(state, chances, 6, rng)
    assert indices[:3].tolist() == unmet.tolist() and weights[:3].tolist() == [1.0] * 3
    np.testing.assert_allclose(weights[3:], chances.mean() / chances[indices[3:]])
    chances[unmet] = [1.0, 0.5, 0.25]
    indices, weights, _ = PassDraws().draw_weighted(state, chances, 1, np.random.default_rng(0))
    np.testing.assert_allclose(weights, chances[unmet].mean() / chances[indices])


@pytest.mark.parametrize("size", [24, 96])
def test_steps_of_a_fixed_size_are_unbiased_over_passes_that_end_within_them(size):
    """Fixed chances, correlated with what is estimated; the terms left are of order 1 / N."""
    world = np.random.default_rng(1)
    g = world.lognormal(0, 0.7, size)
    p = (0.2 + g / g.max()) / (0.2 + g / g.max()).sum()
    draws, means = PassDraws(), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        chances, state = draws.prepare(p, rng), draws.initial_state(size)
        for _ in range(20):
            indices, weights, state = draws.draw_weighted(state, chances, 8, rng)
            means.append((weights * g[indices]).mean() / g.mean())
    assert abs(np.mean(means) - 1) < 0.3 / size + 3 * np.std(means) / np.sqrt(len(means))


def test_passes_of_even_chances_are_epochs():
    draws, rng = PassDraws(), np.random.default_rng(3)
    chances, state = draws.prepare(np.full(6, 1 / 6), rng), draws.initial_state(6)
    for _ in range(3):
        indices, weights, state = draws.draw_weighted(state, chances, 6, rng)
        assert sorted(indices.tolist()) == list(range(6)) and (weights == 1).all()
