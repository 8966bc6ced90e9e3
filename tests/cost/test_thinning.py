"""Thinning: unbiased by enumeration, exact zeros, exact ones."""

from itertools import product

import numpy as np
import pytest

from cost.draws import systematic_counts
from cost.thinning import Candidates, CostAware, KeepAll, systematic_sample


def candidates(seed=0, size=9):
    rng = np.random.default_rng(seed)
    advantages = rng.normal(size=size)
    advantages[1] = 0.0
    usable = np.ones(size, dtype=bool)
    usable[2] = False
    advantages[2] = 0.0
    return Candidates(
        scores=np.abs(advantages) * rng.lognormal(size=size),
        costs=rng.uniform(5, 100, size),
        advantages=advantages,
        usable=usable,
        groups=np.zeros(size, dtype=int),
    )


def policy_gradients(batch: Candidates, seed=1):
    """Per-response gradients of a linear-softmax policy, advantage included: [M, features]."""
    rng = np.random.default_rng(seed)
    num_actions, features = 3, 2
    theta = rng.normal(size=(num_actions, features))
    rows = []
    for cost, advantage in zip(batch.costs, batch.advantages, strict=True):
        total = np.zeros_like(theta)
        for _ in range(max(int(cost) // 20, 1)):
            x = rng.normal(size=features)
            pi = np.exp(theta @ x) / np.exp(theta @ x).sum()
            action = rng.integers(num_actions)
            total += np.outer(np.eye(num_actions)[action] - pi, x)
        rows.append((advantage * total).ravel())
    return np.array(rows)


def patterns(q):
    for bits in product([0, 1], repeat=len(q)):
        z = np.array(bits)
        yield z, np.prod(np.where(z == 1, q, 1 - q))


def test_inverse_probability_weights_are_unbiased_over_all_patterns():
    batch = candidates()
    gradients, q = policy_gradients(batch), CostAware(budget=0.4).probabilities(batch)
    inverse = np.divide(1.0, q, out=np.zeros_like(q), where=q > 0)
    mean, square = np.zeros(gradients.shape[1]), 0.0
    full = gradients.sum(axis=0)
    for z, chance in patterns(q):
        estimate = (z * inverse) @ gradients
        mean += chance * estimate
        square += chance * ((estimate - full) ** 2).sum()
    np.testing.assert_allclose(mean, full, atol=1e-10)
    norms = (gradients**2).sum(axis=1)
    chosen = q > 0
    assert square == pytest.approx((norms[chosen] * (1 / q[chosen] - 1)).sum(), rel=1e-9)


def test_self_normalised_weights_would_be_biased():
    g, p = np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.25, 0.8])
    weighted = normalised = 0.0
    for z, chance in patterns(p):
        weights = z / p
        weighted += chance * (weights @ g) / 3
        normalised += chance * ((weights @ g) / weights.sum() if z.any() else 0.0)
    assert weighted == pytest.approx(1.0, abs=1e-12)
    assert normalised == pytest.approx(1.208, abs=5e-4)


def test_dividing_by_the_survivors_would_be_biased():
    g, lengths, p = np.array([1.0, 0.0, 2.0]), np.array([10, 20, 70]), np.array([0.5, 0.25, 0.8])
    by_constant = by_survivors = 0.0
    for z, chance in patterns(p):
        total = (z / p) @ (g * lengths)
        by_constant += chance * total / lengths.sum()
        by_survivors += chance * (total / (z @ lengths) if z.any() else 0.0)
    truth = (g @ lengths) / lengths.sum()
    assert by_constant == pytest.approx(truth, abs=1e-12)
    assert abs(by_survivors - truth) > 0.1


def test_systematic_keeping_has_the_same_inclusion_probabilities():
    q = CostAware(budget=0.4).probabilities(candidates())
    uncertain = q[(q > 0) & (q < 1)]
    edges = np.cumsum(uncertain)
    breaks = np.unique(np.concatenate([[0.0, 1.0], edges - np.floor(edges)]))
    included = sum(
        width * (systematic_counts(uncertain, middle) > 0)
        for middle, width in zip((breaks[:-1] + breaks[1:]) / 2, np.diff(breaks), strict=True)
    )
    np.testing.assert_allclose(included, uncertain, atol=1e-12)


def test_certain_is_always_kept_and_zero_never():
    q = np.array([1.0, 0.0, 1.0, 0.3, 0.3, 0.4])
    for seed in range(50):
        keep = systematic_sample(q, np.random.default_rng(seed))
        assert keep[0] and keep[2] and not keep[1]
        assert keep[3:].sum() == 1  # the expected number is 1


def test_any_two_can_be_kept_together():
    """In a fixed order neighbours of probability 1/2 would exclude each other in every batch."""
    q = np.full(4, 0.5)
    kept = np.array([systematic_sample(q, np.random.default_rng(seed)) for seed in range(200)])
    assert ((kept.T.astype(int) @ kept) > 0).all()


def test_keep_all_keeps_zero_advantages_with_probability_exactly_one():
    batch = candidates()
    thinning = KeepAll().thin(batch, np.random.default_rng(0))
    assert thinning.keep.tolist() == batch.usable.tolist()
    assert thinning.probabilities.tolist() == batch.usable.astype(float).tolist()


def test_cost_aware_leaves_out_exact_zeros_and_spends_its_share_of_the_rest():
    batch = candidates()
    q = CostAware(budget=0.4, floor=0.05).probabilities(batch)
    assert q[1] == q[2] == 0
    chosen = [0, *range(3, 9)]
    assert q @ batch.costs == pytest.approx(0.4 * batch.costs[chosen].sum(), rel=1e-9)
    assert (q[chosen] >= 0.05).all()


def test_responses_that_look_gradient_free_get_the_floor_not_zero():
    batch = candidates()
    batch.scores[0] = 0.0  # surprise rounded to zero, advantage is not
    assert CostAware(floor=0.05).probabilities(batch)[0] == 0.05


def test_zero_advantages_are_candidates_on_request():
    q = CostAware(floor=0.05, keep_zero_advantage=True).probabilities(candidates())
    assert q[1] >= 0.05 and q[2] == 0


def test_full_budget_keeps_all_candidates_for_certain():
    batch = candidates()
    q = CostAware(budget=1.0).probabilities(batch)
    assert q.tolist() == (batch.usable & (batch.advantages != 0)).astype(float).tolist()


def test_batch_without_candidates():
    batch = candidates()
    batch.usable[:] = False
    thinning = CostAware().thin(batch, np.random.default_rng(0))
    assert not thinning.keep.any()


@pytest.mark.parametrize("field", ["budget", "floor"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_refuses(field, value):
    with pytest.raises(ValueError, match=rf"thinning\.{field} must lie in \(0, 1\], got"):
        CostAware(**{field: value})
