"""Thinning: unbiased by enumeration, exact zeros, exact ones."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cost.advantages.within_group import GroupStandardised
from cost.draws.draws import systematic_counts
from cost.thinning.subsets import D3s, Pods
from cost.thinning.thinning import (
    AdvantageOnly,
    Candidates,
    CostAware,
    KeepAll,
    NonZero,
    sampled,
    systematic_sample,
)
from tests.cost.thinning.candidates import candidates, group_of, policy_gradients


def patterns(q):
    for bits in product([0, 1], repeat=len(q)):
        z = np.array(bits)
        yield z, np.prod(np.where(z == 1, q, 1 - q))


PRESERVING = [
    KeepAll(),
    NonZero(),
    AdvantageOnly(budget=0.4),
    AdvantageOnly(budget=0.4, keep_zero_advantage=True),
    CostAware(budget=0.4),
    CostAware(budget=0.4, keep_zero_advantage=True),
]


@pytest.mark.parametrize("rule", PRESERVING, ids=repr)
def test_inverse_probability_weights_are_unbiased_over_all_patterns(rule):
    """Mean and variance sum G^2 (1/q - 1) of independent keeping, over all 2^9 patterns."""
    assert rule.objective_preserving
    batch = candidates()
    gradients, q = policy_gradients(batch), rule.thin(batch, np.random.default_rng(0)).probabilities
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
    assert square == pytest.approx((norms[chosen] * (1 / q[chosen] - 1)).sum(), rel=1e-9, abs=1e-12)


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


@pytest.mark.parametrize("rule", [AdvantageOnly(budget=0.1, floor=0.5), CostAware(0.1, 0.5)])
def test_a_floor_above_the_budget_is_lowered_to_the_uniform_rule(rule):
    batch = candidates()
    q = rule.probabilities(batch)
    chosen = batch.usable & (batch.advantages != 0)
    np.testing.assert_allclose(q[chosen], 0.1, rtol=1e-12)
    assert (q[~chosen] == 0).all()


def test_advantage_only_ignores_cost_and_score_but_spends_the_budget():
    batch = candidates()
    q = AdvantageOnly(budget=0.3, floor=1e-6).probabilities(batch)
    chosen = batch.usable & (batch.advantages != 0)
    assert q @ batch.costs == pytest.approx(0.3 * batch.costs[chosen].sum(), rel=1e-9)
    free = chosen & (q < 1)
    ratio = q[free] / np.abs(batch.advantages[free])
    assert free.sum() > 3 and np.ptp(ratio) < 1e-9 * ratio.max()
    other = replace(batch, scores=batch.scores[::-1].copy())
    np.testing.assert_array_equal(AdvantageOnly(0.3, 1e-6).probabilities(other), q)


def test_non_zero_leaves_out_what_has_no_gradient():
    batch = candidates()
    thinning = NonZero().thin(batch, np.random.default_rng(0))
    assert thinning.keep.tolist() == [True, False, False, *[True] * 6]
    assert thinning.probabilities.tolist() == thinning.keep.astype(float).tolist()


def test_who_keeps_zero_advantages_says_so():
    batch = candidates()
    rules = [*PRESERVING, Pods(), D3s(1.0, 1.0)]
    assert [rule.keeps_zero_advantage for rule in rules] == [
        True, False, False, True, False, True, False, False,
    ]  # fmt: skip
    for rule in rules:
        q = rule.thin(batch, np.random.default_rng(0)).probabilities
        assert (q[1] > 0) == rule.keeps_zero_advantage, rule


@pytest.mark.parametrize("rule", [*PRESERVING, Pods(), D3s(1.0, 1.0)], ids=repr)
def test_what_is_not_usable_is_never_kept_whatever_advantage_it_was_given(rule):
    """An advantage may be of a penalty alone, which a response without a reward has as well."""
    batch = candidates()
    batch.advantages[2], batch.scores[2], batch.rewards[3] = 5.0, 9.0, 0.0
    thinning = rule.thin(batch, np.random.default_rng(0))
    assert thinning.keep.any() and not thinning.keep[2] and thinning.probabilities[2] == 0


def test_second_moment_inflation_of_graded_budgets(make_groups):
    """Groups of 16, pass rates uniform on [0, 1], lengths lognormal(.6), G = |A|, no floor."""
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.random(4000), 16)
    rewards = (rng.random(rates.size) < rates).astype(float)
    groups = np.repeat(np.arange(4000), 16)
    advantages = GroupStandardised().advantages(make_groups(*rewards.reshape(-1, 16)))
    batch = Candidates(
        scores=np.abs(advantages), costs=rng.lognormal(0, 0.6, rates.size), advantages=advantages,
        rewards=rewards, usable=np.ones(rates.size, dtype=bool), groups=groups,
    )  # fmt: skip
    chosen, squares = advantages != 0, advantages**2
    # The budget counts the tokens of all responses; those without advantage are free to leave out.
    share = batch.costs[chosen].sum() / batch.costs.sum()
    for budget, inflation, max_weight in [(0.3, 1.93, 22), (0.5, 1.24, 9.1), (0.7, 1.046, 6.0)]:
        q = CostAware(budget / share, floor=1e-9).probabilities(batch)
        found = (squares[chosen] / q[chosen]).sum() / squares.sum()
        assert found == pytest.approx(inflation, rel=0.05)
        assert 1 / q[chosen].min() == pytest.approx(max_weight, rel=0.6)


@pytest.mark.parametrize("rule", [NonZero(), AdvantageOnly(), CostAware(), Pods(), D3s()])
def test_batches_with_nothing_to_train_on(rule):
    nothing = group_of([])
    equal = group_of([0.1, 0.1, 0.1, 1.0], groups=[0, 0, 0, 1])
    unusable = group_of([0.0, 1.0], usable=[False, False])
    for batch in (nothing, equal, unusable):
        thinning = rule.thin(batch, np.random.default_rng(0))
        assert not thinning.keep.any() and np.isfinite(thinning.probabilities).all()


@pytest.mark.parametrize("rule", [AdvantageOnly, CostAware])
@pytest.mark.parametrize("field", ["budget", "floor"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, r"must lie in \(0, 1\]"),
        (-1.0, r"must lie in \(0, 1\]"),
        (1.5, r"must lie in \(0, 1\]"),
        (float("nan"), "must be finite"),
    ],
)
def test_refuses(rule, field, value, told):
    with pytest.raises(ValueError, match=rf"^thinning\.{field} {told}, got {value!r}$"):
        rule(**{field: value})


def with_penalties(num_signal=8, num_noise=24, scale=1e-5, seed=3):
    """Candidates of which all but the first few have an advantage of penalties alone."""
    rng = np.random.default_rng(seed)
    size = num_signal + num_noise
    signal = np.arange(size) < num_signal
    penalties = scale * rng.normal(size=size)
    advantages = np.where(signal, rng.choice([-1.0, 1.0], size), 0.0) - penalties
    return Candidates(
        scores=np.abs(advantages), costs=rng.uniform(5, 100, size), advantages=advantages,
        rewards=np.ones(size), usable=np.ones(size, dtype=bool), groups=np.arange(size) // 8,
        penalties=penalties, signal=signal,
    )  # fmt: skip


@pytest.mark.parametrize("rule", [AdvantageOnly, CostAware])
@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1e-3])
def test_a_budget_is_not_spent_on_penalties_that_weigh_nothing(rule, scale):
    batch = with_penalties(scale=scale)
    q, signal = rule(budget=0.5).probabilities(batch), batch.signal
    # What the budget buys of the signal is what it buys where there are no penalties.
    alone = replace(
        batch, advantages=np.where(signal, batch.advantages, 0.0), penalties=None, signal=None
    )
    np.testing.assert_allclose(q[signal], rule(budget=0.5).probabilities(alone)[signal], rtol=0.02)
    np.testing.assert_allclose(q[~signal], 0.02, rtol=0.02)


@pytest.mark.parametrize("rule", [AdvantageOnly, CostAware])
def test_penalties_of_the_size_of_rewards_count_as_rewards(rule):
    batch = replace(with_penalties(scale=0.0), advantages=np.full(32, 0.7))
    q = rule(budget=0.5).probabilities(batch)
    assert q @ batch.costs == pytest.approx(0.5 * batch.costs.sum(), rel=1e-9)
    # Where no reward tells anything there is nothing that a penalty is small against.
    none = replace(with_penalties(), signal=np.zeros(32, dtype=bool))
    assert rule(0.5).probabilities(none) @ none.costs == pytest.approx(0.5 * none.costs.sum())


def test_metrics_count_those_that_had_a_chance():
    costs, q = np.array([30.0, 10.0, 40.0, 20.0, 50.0]), np.array([1.0, 0.5, 0.02, 0.02, 0.0])
    for seed in range(20):
        thinned = sampled(costs, q, 0.02, np.random.default_rng(seed))
        assert thinned.metrics == pytest.approx({
            "cost/thinning_target_cost": 30 + 5 + 0.8 + 0.4,
            "cost/thinning_realised_share": costs[thinned.keep].sum() / 36.2,
            "cost/thinning_capped_share": 1 / 4,
            "cost/thinning_floored_share": 2 / 4,
        })  # fmt: skip
    none = sampled(costs, np.zeros(5), 0.02, np.random.default_rng(0)).metrics
    assert none["cost/thinning_realised_share"] == 1.0 and sum(none.values()) == 1.0
