"""Thinning: unbiased by enumeration, exact zeros, exact ones; subsets against brute force."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from cost.advantages.types import GroupBatch
from cost.advantages.within_group import GroupStandardised
from cost.draws.draws import systematic_counts
from cost.thinning.thinning import (
    AdvantageOnly,
    Candidates,
    CostAware,
    D3s,
    KeepAll,
    NonZero,
    Pods,
    systematic_sample,
)


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
        rewards=np.where(usable, rng.integers(0, 2, size), np.nan),
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


def group_of(rewards, usable=None, groups=None):
    rewards = np.asarray(rewards, dtype=float)
    size = len(rewards)
    usable = np.ones(size, dtype=bool) if usable is None else np.asarray(usable)
    groups = np.zeros(size, dtype=int) if groups is None else np.asarray(groups)
    sizes = np.unique(groups, return_counts=True)[1]
    batch = GroupBatch(
        rewards, usable, np.ones(size, int), np.zeros(size, int), sizes, np.arange(len(sizes)),
        np.zeros(len(sizes), bool), 100,
    )  # fmt: skip
    advantages = GroupStandardised().advantages(batch)
    return Candidates(
        scores=np.abs(advantages), costs=np.arange(1.0, size + 1), advantages=advantages,
        rewards=np.where(usable, rewards, np.nan), usable=usable, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_pods_selects_the_subset_of_largest_reward_variance(seed):
    rng = np.random.default_rng(seed)
    size, kept = int(rng.integers(2, 9)), int(rng.integers(2, 6))
    rewards = rng.normal(size=size)
    thinning = Pods(num_kept=kept).thin(group_of(rewards), rng)
    kept = min(kept, size)
    best = max(combinations(range(size), kept), key=lambda items: np.var(rewards[list(items)]))
    assert tuple(np.flatnonzero(thinning.keep)) == best
    selected = rewards[list(best)]
    expected = (selected - selected.mean()) / (selected.std() + 1e-6)
    np.testing.assert_allclose(thinning.advantages[list(best)], expected, rtol=1e-9)
    assert (thinning.advantages[~thinning.keep] == 0).all()
    np.testing.assert_allclose(thinning.probabilities[list(best)], kept / size)


def test_pods_takes_half_right_and_half_wrong_where_it_can():
    for right in range(9):
        rewards = np.arange(8) < right
        batch = group_of(rewards)
        kept = Pods(num_kept=4).thin(batch, np.random.default_rng(right)).keep
        if right in (0, 8):
            assert not kept.any()
            continue
        assert kept.sum() == 4
        assert (kept & rewards).sum() == min(max(2, 4 - (8 - right)), right)


def test_pods_treats_groups_apart_and_leaves_unusable_responses_out():
    rewards = [0, 1, 5, 2, 3, 3, 3, 0, 9]
    usable = [True, True, False, True, True, True, True, False, True]
    batch = group_of(rewards, usable, [0, 0, 0, 0, 1, 1, 1, 1, 2])
    thinning = Pods(num_kept=2).thin(batch, np.random.default_rng(0))
    # Group 0 keeps 0 and 2 of its three; group 1 has equal rewards, group 2 one response.
    assert np.flatnonzero(thinning.keep).tolist() == [0, 3]
    np.testing.assert_allclose(thinning.advantages[[0, 3]], [-1, 1], rtol=1e-5)
    assert thinning.probabilities[[0, 3]].tolist() == [2 / 3, 2 / 3]
    assert np.isfinite(thinning.advantages).all()


def test_pods_with_all_responses_is_the_full_group():
    batch = group_of(np.random.default_rng(0).normal(size=6))
    thinning = Pods(num_kept=6).thin(batch, np.random.default_rng(0))
    assert thinning.keep.all() and (thinning.probabilities == 1).all()
    np.testing.assert_allclose(thinning.advantages, batch.advantages, rtol=1e-9)


def test_pods_breaks_ties_at_random():
    """Responses are in no random order, so the first of equals must not always win."""
    batch = group_of([0, 0, 1, 1, 1, 1, 1, 1])
    counts = sum(
        Pods(num_kept=4).thin(batch, np.random.default_rng(seed)).keep for seed in range(300)
    )
    assert counts[:2].tolist() == [300, 300]
    assert (np.abs(counts[2:] - 100) < 45).all()


@pytest.mark.parametrize("seed", range(12))
def test_d3s_selects_the_subset_of_largest_advantage_variance_in_the_batch(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(6, 15))
    batch = replace(candidates(seed, size), usable=rng.random(size) < 0.9)
    share = rng.uniform(0.3, 0.9)
    thinning = D3s(share, share, 1.0, 1.0).thin(batch, rng)
    items = np.flatnonzero(batch.usable)
    number = max(round(share * len(items)), 2)
    best = max(
        combinations(items, number), key=lambda subset: np.var(batch.advantages[list(subset)])
    )
    assert set(np.flatnonzero(thinning.keep)) == {j for j in best if batch.advantages[j] != 0}
    assert (thinning.probabilities[thinning.keep] == number / len(items)).all()
    assert thinning.advantages is None


def test_d3s_schedule_is_a_straight_line():
    rule = D3s(0.2, 0.6, 0.1, 0.9)
    np.testing.assert_allclose(rule.shares(0.0), (0.2, 0.1))
    np.testing.assert_allclose(rule.shares(0.5), (0.4, 0.5))
    np.testing.assert_allclose(rule.shares(1.0), (0.6, 0.9))
    batch = replace(candidates(size=14), progress=0.5)
    thinning = rule.thin(batch, np.random.default_rng(0))
    assert thinning.token_share == pytest.approx(0.5)
    assert thinning.keep.sum() == round(0.4 * 13)


def test_d3s_with_everything_trains_on_the_full_gradient():
    batch = candidates()
    thinning = D3s(1.0, 1.0, 1.0, 1.0).thin(batch, np.random.default_rng(0))
    full = KeepAll().thin(batch, np.random.default_rng(0))
    gradients = policy_gradients(batch)

    def gradient(chosen):
        return (gradients[chosen.keep] / chosen.probabilities[chosen.keep, None]).sum(axis=0)

    np.testing.assert_allclose(gradient(thinning), gradient(full), rtol=1e-12)
    assert thinning.token_share == 1.0


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
@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_refuses(rule, field, value):
    with pytest.raises(ValueError, match=rf"thinning\.{field} must lie in \(0, 1\], got"):
        rule(**{field: value})


def test_pods_and_d3s_refuse():
    with pytest.raises(ValueError, match=r"^thinning\.num_kept must be at least 1, got 0"):
        Pods(num_kept=0)
    with pytest.raises(ValueError, match=r"^thinning\.epsilon must not be negative, got -1"):
        Pods(epsilon=-1)
    for key in (
        "response_share_start",
        "response_share_end",
        "token_share_start",
        "token_share_end",
    ):
        with pytest.raises(ValueError, match=rf"^thinning\.{key} must lie in \(0, 1\], got 0"):
            D3s(**{key: 0})


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


def test_pods_standardises_rewards_and_no_penalty():
    batch = group_of([1.0] * 4 + [0.0, 1.0, 0.0, 1.0], groups=[0] * 4 + [1] * 4)
    penalties = 1e-5 * np.random.default_rng(0).normal(2, 1, 8)
    found = Pods(num_kept=4).thin(replace(batch, penalties=penalties), np.random.default_rng(0))
    plain = Pods(num_kept=4).thin(batch, np.random.default_rng(0))
    means = np.repeat(penalties.reshape(2, 4).mean(axis=1), 4)
    np.testing.assert_allclose(
        found.advantages, plain.advantages - (penalties - means), rtol=1e-9, atol=1e-15
    )
    assert found.keep.all() and not plain.keep[:4].any()
