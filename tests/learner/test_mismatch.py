"""Metrics of the distance between sampling and training, against plain loops."""

import math

import numpy as np
import pytest
import torch

from learner.mismatch import derived, ratio_values, staleness_values, turn_values


def means(values):
    return {name: value.double().mean().item() for name, value in values.items()}


def test_means_by_hand():
    rollout = torch.tensor([-1.0, -2.0, -0.5, -3.0])
    ratios = np.array([0.5, 1.0, 4.0, 1.25])
    trainer = rollout + torch.from_numpy(ratios).log().float()
    found = means(ratio_values("old", trainer, rollout))
    found |= derived(found)
    expected = {
        "kl_old_k1": -np.log(ratios).mean(),
        "kl_old": (ratios - 1 - np.log(ratios)).mean(),
        "old_ratio": ratios.mean(),
        "old_chi_square": (ratios**2).mean() - 1,
        "old_effective_share": ratios.sum() ** 2 / (4 * (ratios**2).sum()),
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_agreement_is_zero_distance_and_all_tokens_effective():
    logprobs = torch.tensor([-1.0, -2.0])
    found = means(ratio_values("rollout", logprobs, logprobs))
    assert found == {
        "kl_rollout_k1": 0, "kl_rollout": 0, "rollout_ratio": 1, "rollout_chi_square": 0
    }  # fmt: skip
    assert derived(found) == {"rollout_effective_share": 1}


def test_ratios_are_not_cut_and_extremes_stay_finite():
    rollout = torch.tensor([-9.0, -0.1])
    found = ratio_values("rollout", torch.tensor([-0.1, -900.0], requires_grad=True), rollout)
    assert found["rollout_ratio"][0].item() == pytest.approx(math.exp(8.9), rel=1e-5)
    assert all(value.isfinite().all() and not value.requires_grad for value in found.values())


@pytest.mark.parametrize("staleness", [[0, 2, 1, 0], [0, 0, 0, 0], [1, 1, 3, 1]])
def test_the_divergence_by_staleness(staleness):
    kl = torch.tensor([0.5, 0.25, 1.0, 0.125], dtype=torch.float64)
    found = means({"kl_rollout": kl} | staleness_values(torch.tensor(staleness), kl))
    found |= derived(found)
    stale = np.array(staleness) > 0
    for name, here in (("kl_rollout_stale", stale), ("kl_rollout_fresh", ~stale)):
        expected = kl.numpy()[here].mean() if here.any() else math.nan
        assert found[name] == pytest.approx(expected, nan_ok=True)
    assert found["token_staleness"] == np.mean(staleness)
    assert found["stale_share"] == stale.mean()


def test_means_by_turn_add_up_to_those_over_all_tokens():
    numbers = torch.tensor([0, 0, 1, 2, 3, 0])
    entropy = torch.tensor([0.5, 0.7, 1.0, 2.0, 4.0, 0.3])
    ratio = torch.tensor([1.0, 1.0, 2.0, 0.5, 0.7, 1.0])
    seen = {"entropy": entropy, "rollout_ratio": ratio}
    values = turn_values(numbers, seen)
    means = {name: value.double().mean().item() for name, value in values.items()}
    means |= {"entropy": entropy.mean().item(), "rollout_ratio": ratio.mean().item()}
    means["rollout_chi_square"] = 0.0
    found = derived(means)
    assert found["turn_first_share"] == pytest.approx(0.5)
    assert found["turn_first_entropy"] == pytest.approx(0.5)
    assert found["turn_second_entropy"] == pytest.approx(1.0)
    assert found["turn_later_entropy"] == pytest.approx(3.0)
    assert found["turn_later_ratio"] == pytest.approx(0.6)
    assert turn_values(torch.zeros(6, dtype=torch.int64), seen) == {}
    assert turn_values(torch.tensor([0, 1]), {name: of[:2] for name, of in seen.items()})
