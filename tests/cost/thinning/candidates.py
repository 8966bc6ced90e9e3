"""Made-up candidates for thinning."""

import numpy as np

from cost.advantages.types import GroupBatch
from cost.advantages.within_group import GroupStandardised
from cost.thinning.thinning import Candidates


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
