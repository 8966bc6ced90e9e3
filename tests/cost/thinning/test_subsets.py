"""PODS and D3S: subsets against brute force."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from cost.thinning.subsets import D3s, Pods
from cost.thinning.thinning import KeepAll
from tests.cost.thinning.candidates import candidates, group_of, policy_gradients


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
    assert (thinning.probabilities[~thinning.keep] == 0).all()
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


@pytest.mark.parametrize(
    ("start", "end", "thins"), [(0.5, 1.0, True), (1.0, 0.5, True), (1.0, 1.0, False)]
)
def test_d3s_thins_tokens_where_it_does_at_either_end(start, end, thins):
    assert D3s(token_share_start=start, token_share_end=end).thins_tokens == thins


def test_d3s_with_everything_trains_on_the_full_gradient():
    batch = candidates()
    thinning = D3s(1.0, 1.0, 1.0, 1.0).thin(batch, np.random.default_rng(0))
    full = KeepAll().thin(batch, np.random.default_rng(0))
    gradients = policy_gradients(batch)

    def gradient(chosen):
        return (gradients[chosen.keep] / chosen.probabilities[chosen.keep, None]).sum(axis=0)

    np.testing.assert_allclose(gradient(thinning), gradient(full), rtol=1e-12)
    assert thinning.token_share == 1.0


def test_pods_and_d3s_refuse():
    # One response compared with itself has no advantage: nothing would ever be learned.
    with pytest.raises(ValueError, match=r"^thinning\.num_kept must be at least 2, got 1"):
        Pods(num_kept=1)
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
