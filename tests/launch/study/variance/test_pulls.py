"""Alignment and noise scale of gradients that were drawn with known ones."""

import math

import numpy as np
import pytest
import torch

from launch.study.variance.measurement import BatchResult
from launch.study.variance.pulls import Pulls, PullSums
from launch.study.variance.rules import Responses
from launch.study.variance.summary import pulls_of

SIZE, NUM_GROUPS, DIMENSIONS, PASS_RATE = 6, 24, 12, 0.4
COMMON, OWN, NOISE = 0.3, 0.5, 1.0
"""Of a right response's gradient: along one axis for all prompts, along the prompt's own, and the
deviation of the rest along each."""


def batch(rng, unusable=False):
    """What responses say, and their gradients, of which v S = v (h's + noise) is known."""
    count = SIZE * NUM_GROUPS
    groups = np.repeat(np.arange(NUM_GROUPS), SIZE)
    rewards = (rng.uniform(size=count) < PASS_RATE).astype(float)
    usable = rng.uniform(size=count) < 0.8 if unusable else np.ones(count, dtype=bool)
    rewards[~usable] = math.nan
    responses = Responses(
        advantages=np.zeros(count), rewards=rewards, usable=usable, groups=groups,
        lengths=np.full(count, 1), surprise=np.ones(count),
    )  # fmt: skip
    # Scores have the mean 0: what right responses pull, wrong ones pull the other way.
    pull = np.where(rewards == 1, 1 / PASS_RATE, -1 / (1 - PASS_RATE))
    gradients = NOISE * rng.normal(size=(count, DIMENSIONS))
    gradients[:, 0] += COMMON * pull
    gradients[np.arange(count), 1 + groups % (DIMENSIONS - 1)] += OWN * pull
    return responses, torch.tensor(gradients, dtype=torch.float32)


def pulls_of_one(rng, **options):
    responses, gradients = batch(rng, **options)
    sums = PullSums(responses, SIZE, torch.zeros(DIMENSIONS))
    for j in np.flatnonzero(responses.usable):
        sums.add(int(j), gradients[j])
    return sums.pulls()


@pytest.mark.parametrize("unusable", [False, True])
def test_known_pulls_are_found_again(unusable):
    rng = np.random.default_rng(0)
    found = [pulls_of_one(rng, unusable=unusable) for _ in range(150)]
    # h = E reward psi. Halves that lost responses pull 0 now and then.
    within = np.array([pulls.within for pulls in found])
    error = within.std() / math.sqrt(len(within))
    truth = COMMON**2 + OWN**2
    assert within.mean() == pytest.approx(truth * (0.9 if unusable else 1), abs=4 * error + 0.03)
    if unusable:
        return
    across = np.array([pulls.across for pulls in found])
    # Prompts share an axis of their own with every eleventh other one.
    same = [g % 11 == k % 11 for g in range(NUM_GROUPS) for k in range(NUM_GROUPS) if g != k]
    expected = COMMON**2 + OWN**2 * np.mean(same)
    assert across.mean() == pytest.approx(expected, abs=4 * across.std() / math.sqrt(len(across)))


def test_a_group_s_own_square_is_that_of_its_responses():
    rng = np.random.default_rng(1)
    own = [pulls_of_one(rng).own for _ in range(150)]
    v, pull = PASS_RATE * (1 - PASS_RATE), COMMON**2 + OWN**2
    # E (r - p)^2 |psi|^2, which is v S where |psi| is alike for both rewards.
    square = PASS_RATE * 0.6**2 * pull / 0.16 + 0.6 * PASS_RATE**2 * pull / 0.36
    assert np.mean(own) == pytest.approx(v * NOISE**2 * DIMENSIONS + square, rel=0.05)


def test_small_groups_and_single_ones_say_nothing():
    sums = PullSums(batch(np.random.default_rng(2))[0], 2, torch.zeros(3))
    assert sums.pulls().own == 0


def test_the_report_has_ratios_over_batches():
    responses, _ = batch(np.random.default_rng(3))
    results = [
        BatchResult(responses, np.zeros(0), {}, Pulls(own=2.0, within=within, across=0.1))
        for within in (0.1, 0.3)
    ]
    found = pulls_of(results, group_size=6)
    assert found["alignment"] == pytest.approx(0.1)
    assert found["alignment_standard_error"] == pytest.approx(0.05)
    assert found["noise_scale"] == pytest.approx((0.2 + 2 / 5) / 0.1)
