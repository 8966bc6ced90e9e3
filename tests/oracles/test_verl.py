"""Losses, advantages, divergences and rollout corrections against verl, to 1e-6.

What differs, and how it is met here:

- verl's vanilla loss always has a dual clip; where ours has none, verl's is set out of reach.
- verl averages over responses, we over prompts first: for `SequenceMean` and `ConstantLength` the
  groups are of equal size, for which both are the same.
- verl's token mean of a response divides by its length + 1e-8.
- verl's group deviation is the sample deviation (ddof 1), with the same 1e-6 added.
- verl whitens with the sample variance and 1e-8 added to it inside the root, over tokens; with one
  token a response, our population deviation over responses differs by a known factor.
- A group of one: verl subtracts nothing, we give 0, so groups have at least two here.
- verl cuts its k3 at 10 nats, so tokens beyond that are left out here.

It has nothing to compare `GradientPreservingClip` with, nor have TRL and Liger.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from cost.advantages.across_batch import BatchDeviation, BatchStandardised
from cost.advantages.types import Advantage
from cost.advantages.within_group import GroupMean, GroupStandardised, LeaveOneOut
from cost.aggregations import Aggregation, BatchTokenMean, ConstantLength, SequenceMean
from learner.corrections import Band, Correction, Truncated
from learner.objectives.cispo import Cispo
from learner.objectives.clipped_surrogate import ClippedSurrogate, Gspo
from learner.objectives.sapo import Sapo
from learner.objectives.types import Objective
from learner.reference import kl_estimates

EQUAL, RAGGED = (4, 4, 4), (2, 3, 7)
SEEDS = (0, 1, 2)
LOW, HIGH, DUAL = (False, False), (True, True), (True, False)
"""Clips as (ratio above 1, advantage above 0): the lower, the upper and the dual."""


@dataclass(frozen=True, slots=True)
class Case:
    """One of our objectives and the same in verl's words."""

    objective: Objective
    aggregation: Aggregation
    name: str
    mode: str
    sizes: tuple[int, ...] = EQUAL
    settings: dict[str, Any] = field(default_factory=dict)
    batch_info: dict[str, Any] = field(default_factory=dict)
    clips: tuple[tuple[bool, bool], ...] = (LOW, HIGH)


def bounds(low: float, high: float, dual: float = 1e9) -> dict[str, float]:
    return {"clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": dual}


LOSSES = {
    "symmetric, sequence mean": Case(
        ClippedSurrogate(0.2, 0.2),
        SequenceMean(),
        "vanilla",
        "seq-mean-token-mean",
        settings=bounds(0.2, 0.2),
    ),
    "symmetric, constant length": Case(
        ClippedSurrogate(0.2, 0.2),
        ConstantLength(64.0),
        "vanilla",
        "seq-mean-token-sum-norm",
        settings=bounds(0.2, 0.2),
        batch_info={"loss_scale_factor": 64},
    ),
    "clip-higher, token mean": Case(
        ClippedSurrogate(0.2, 0.28),
        BatchTokenMean(),
        "vanilla",
        "token-mean",
        RAGGED,
        bounds(0.2, 0.28),
    ),
    "dual clip, token mean": Case(
        ClippedSurrogate(0.2, 0.28, 2.0),
        BatchTokenMean(),
        "vanilla",
        "token-mean",
        RAGGED,
        bounds(0.2, 0.28, 2.0),
        clips=(LOW, HIGH, DUAL),
    ),
    "gspo": Case(
        Gspo(),
        SequenceMean(),
        "gspo",
        "seq-mean-token-mean",
        settings=bounds(3e-4, 4e-4),
    ),
    "gspo, wide": Case(
        Gspo(0.2, 0.28),
        SequenceMean(),
        "gspo",
        "seq-mean-token-mean",
        settings=bounds(0.2, 0.28),
    ),
    "cispo": Case(
        Cispo(max_ratio=1.28, min_ratio=0.8),
        BatchTokenMean(),
        "cispo",
        "token-mean",
        RAGGED,
        bounds(0.2, 0.28),
        clips=(LOW, HIGH, DUAL, (False, True)),
    ),
    "sapo": Case(
        Sapo(1.0, 1.05),
        SequenceMean(),
        "sapo",
        "seq-mean-token-mean",
        settings={"tau_pos": 1.0, "tau_neg": 1.05},
        clips=(),
    ),
}

ADVANTAGES: dict[str, tuple[Advantage, str, dict[str, Any], str | None]] = {
    "group_standardised": (GroupStandardised(1e-6, ddof=1), "grpo", {}, None),
    "group_mean": (GroupMean(), "grpo", {"norm_adv_by_std_in_grpo": False}, None),
    "leave_one_out": (LeaveOneOut(), "rloo", {}, None),
    "leave_one_out, vectorized": (LeaveOneOut(), "rloo_vectorized", {}, None),
    "batch_standardised": (BatchStandardised(0.0), "reinforce_plus_plus", {}, "rewards"),
    "batch_deviation": (BatchDeviation(0.0), "reinforce_plus_plus_baseline", {}, "centred"),
}

CORRECTIONS: dict[str, tuple[Correction, float | str]] = {
    "truncated": (Truncated(2.0), 2.0),
    "band": (Band(0.5, 2.0), "0.5_2.0"),
}


@pytest.fixture(scope="module")
def answers(ask, batches, rewarded):
    jobs: dict[Any, dict[str, Any]] = {}
    for seed in SEEDS:
        for key, case in LOSSES.items():
            jobs["loss", key, seed] = {
                "kind": "loss",
                "name": case.name,
                "aggregation": case.mode,
                "settings": case.settings,
                "batch_info": case.batch_info,
                "batch": batches(seed, case.sizes).as_job(),
            }
        for key, (_, name, settings, _) in ADVANTAGES.items():
            groups = rewarded(seed, RAGGED)
            jobs["advantages", key, seed] = {
                "kind": "advantages",
                "name": name,
                "settings": settings,
                "rewards": groups.rewards.tolist(),
                "groups": groups.groups.tolist(),
            }
        batch = batches(seed, EQUAL)
        for name in ("k1", "k2", "k3"):
            jobs["divergence", name, seed] = {
                "kind": "divergence",
                "name": name,
                "learner_logprobs": batch.learner_logprobs.tolist(),
                "ref_logprobs": batch.ref_logprobs.tolist(),
            }
        for key, (_, threshold) in CORRECTIONS.items():
            jobs["correction", key, seed] = {
                "kind": "correction",
                "threshold": threshold,
                "trainer_logprobs": batch.learner_logprobs.tolist(),
                "rollout_logprobs": batch.rollout_logprobs.tolist(),
            }
    return dict(zip(jobs, ask("verl", list(jobs.values())), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", LOSSES)
def test_losses(answers, batches, compare, key, seed):
    case = LOSSES[key]
    compare(
        answers["loss", key, seed],
        batches(seed, case.sizes),
        case.objective,
        case.aggregation,
        clips=case.clips,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", ADVANTAGES)
def test_advantages(answers, rewarded, key, seed):
    advantage, _, _, whitened = ADVANTAGES[key]
    groups = rewarded(seed, RAGGED)
    ours = advantage.advantages(groups)
    if whitened is not None:
        means = np.repeat(groups.moments.means, groups.sizes)
        values = groups.rewards - means if whitened == "centred" else groups.rewards
        ours = ours * values.std() / np.sqrt(values.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(ours, answers["advantages", key, seed], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_divergences(answers, batches, name, seed):
    batch = batches(seed, EQUAL)
    learner = torch.from_numpy(batch.learner_logprobs).requires_grad_()
    ours = kl_estimates(name, learner, torch.from_numpy(batch.ref_logprobs))
    (gradient,) = torch.autograd.grad(ours.sum(), learner)
    theirs = answers["divergence", name, seed]
    estimates, below = np.array(theirs["estimates"]), ours.detach().numpy() < 10
    assert below.mean() > 0.95
    np.testing.assert_allclose(ours.detach().numpy()[below], estimates[below], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        gradient.numpy()[below], np.array(theirs["gradient"])[below], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", CORRECTIONS)
def test_corrections(answers, batches, compare_factors, key, seed):
    correction, _ = CORRECTIONS[key]
    compare_factors(answers["correction", key, seed], batches(seed, EQUAL), correction)
