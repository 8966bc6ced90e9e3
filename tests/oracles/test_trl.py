"""Losses, advantages and truncated ratios against TRL's GRPO trainer, to 1e-6, and its settings.

What differs, and how it is met here:

- TRL averages over responses, we over prompts first: for `SequenceMean` and `ConstantLength` the
  groups are of equal size, for which both are the same. Its groups always are.
- Its CISPO has an upper bound only, given as the ratio itself; its `delta` is our `dual_clip`.
- Its group deviation is the sample deviation (ddof 1) with 1e-4 added, where our defaults are the
  population deviation and 1e-6.
- `scale_rewards="batch"` divides by the deviation of the raw rewards, `BatchDeviation` by that of
  the rewards less their group's mean; the two are not the same thing and not compared.
- It keeps the engine's log-probabilities in float32, so factors agree to about 1e-7 only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conf.schema import RunConfig
from cost.advantages.types import Advantage
from cost.advantages.within_group import GroupMean, GroupStandardised
from cost.aggregations import Aggregation, BatchTokenMean, ConstantLength, SequenceMean
from launch.program import build
from launch.study.bench.peer_settings import PLAIN, settings
from learner.corrections import Band, Correction, Truncated
from learner.objectives.cispo import Cispo
from learner.objectives.clipped_surrogate import ClippedSurrogate, Gspo
from learner.objectives.sapo import Sapo
from learner.objectives.types import Objective
from tests.composing import composed

EQUAL, RAGGED = (4, 4, 4), (2, 3, 7)
SEEDS = (0, 1, 2)
LOW, HIGH, DUAL = (False, False), (True, True), (True, False)
"""Clips as (ratio above 1, advantage above 0): the lower, the upper and the dual."""


@dataclass(frozen=True, slots=True)
class Case:
    """One of our objectives and the same in TRL's words."""

    objective: Objective
    aggregation: Aggregation
    settings: dict[str, Any]
    sizes: tuple[int, ...] = EQUAL
    kl_weight: float = 0.0
    delta: float | None = None
    clips: tuple[tuple[bool, bool], ...] = (LOW, HIGH)


def bounds(loss_type: str, low: float, high: float) -> dict[str, Any]:
    return {"loss_type": loss_type, "epsilon_low": low, "epsilon_high": high}


LOSSES = {
    "symmetric, sequence mean": Case(
        ClippedSurrogate(0.2, 0.2), SequenceMean(), bounds("grpo", 0.2, 0.2)
    ),
    "symmetric, sequence mean, k3": Case(
        ClippedSurrogate(0.2, 0.2), SequenceMean(), bounds("grpo", 0.2, 0.2), kl_weight=0.3
    ),
    "clip-higher, constant length": Case(
        ClippedSurrogate(0.2, 0.28),
        ConstantLength(64.0),
        {**bounds("dr_grpo", 0.2, 0.28), "max_completion_length": 64},
    ),
    "clip-higher, token mean": Case(
        ClippedSurrogate(0.2, 0.28), BatchTokenMean(), bounds("dapo", 0.2, 0.28), RAGGED
    ),
    "dual clip, token mean": Case(
        ClippedSurrogate(0.2, 0.28, 2.0),
        BatchTokenMean(),
        bounds("bnpo", 0.2, 0.28),
        RAGGED,
        delta=2.0,
        clips=(LOW, HIGH, DUAL),
    ),
    "gspo": Case(
        Gspo(),
        SequenceMean(),
        {**bounds("grpo", 3e-4, 4e-4), "importance_sampling_level": "sequence"},
    ),
    "cispo": Case(
        Cispo(max_ratio=1.28),
        BatchTokenMean(),
        bounds("cispo", 0.2, 1.28),
        RAGGED,
        clips=(HIGH, DUAL),
    ),
    "sapo": Case(
        Sapo(1.0, 1.05),
        SequenceMean(),
        {"loss_type": "sapo"},
        clips=(),
    ),
}


ADVANTAGES: dict[str, tuple[Advantage, str]] = {
    "group_standardised": (GroupStandardised(1e-4, ddof=1), "group"),
    "group_mean": (GroupMean(), "none"),
}
CORRECTIONS: dict[str, tuple[Correction, str, float | None]] = {
    "truncated": (Truncated(2.0), "token_truncate", None),
    "band": (Band(0.5, 2.0), "token_mask", 0.5),
}


def quickstart() -> RunConfig:
    """What the bench `peer` has both trainers do."""
    config: RunConfig = build(composed("train", "experiment=quickstart", *PLAIN))
    return config


@pytest.fixture(scope="module")
def answers(ask, batches, rewarded):
    jobs: dict[Any, dict[str, Any]] = {
        ("loss", key, seed): {
            "kind": "loss",
            "delta": case.delta,
            "settings": {"beta": case.kl_weight, **case.settings},
            "batch": batches(seed, case.sizes).as_job(),
        }
        for key, case in LOSSES.items()
        for seed in SEEDS
    }
    for seed in SEEDS:
        batch = batches(seed, EQUAL)
        scored = {
            "kind": "advantages",
            "rewards": rewarded(seed, EQUAL).rewards.tolist(),
            "group_size": EQUAL[0],
            "trainer_logprobs": batch.learner_logprobs.tolist(),
            "rollout_logprobs": batch.rollout_logprobs.tolist(),
            "scale_rewards": "group",
            "mode": "token_truncate",
            "clip_min": None,
            "clip_max": 2.0,
        }
        for key, (_, scale_rewards) in ADVANTAGES.items():
            jobs["advantages", key, seed] = {**scored, "scale_rewards": scale_rewards}
        for key, (_, mode, clip_min) in CORRECTIONS.items():
            jobs["correction", key, seed] = {**scored, "mode": mode, "clip_min": clip_min}
    jobs["config"] = {"kind": "config", "settings": settings(quickstart())}
    return dict(zip(jobs, ask("trl", list(jobs.values())), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", LOSSES)
def test_losses(answers, batches, compare, key, seed):
    case = LOSSES[key]
    compare(
        answers["loss", key, seed],
        batches(seed, case.sizes),
        case.objective,
        case.aggregation,
        kl_weight=case.kl_weight,
        clips=case.clips,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", ADVANTAGES)
def test_advantages(answers, rewarded, key, seed):
    advantage, _ = ADVANTAGES[key]
    ours = advantage.advantages(rewarded(seed, EQUAL))
    theirs = answers["advantages", key, seed]["advantages"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", CORRECTIONS)
def test_corrections(answers, batches, compare_factors, key, seed):
    correction, _, _ = CORRECTIONS[key]
    answer = answers["correction", key, seed]["factors"]
    compare_factors(answer, batches(seed, EQUAL), correction)


def test_the_bench_s_settings_are_taken_and_left_as_they_are(answers):
    config, held = quickstart(), answers["config"]
    given = settings(config)
    assert {key: held[key] for key in given if key != "report_to"} == {
        key: value for key, value in given.items() if key != "report_to"
    }
    assert held["report_to"] == []
    # A step generates all of its responses at once and trains on them once.
    assert held["generation_batch_size"] == config.responses_per_step
    assert held["steps_per_generation"] == 1
