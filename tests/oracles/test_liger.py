"""Losses against those that Liger's fused GRPO loss computes from log-probabilities, to 1e-6.

What differs, and how it is met here: Liger averages over responses, we over prompts first, so for
`SequenceMean` and `ConstantLength` the groups are of equal size; its CISPO has an upper bound only,
given as the ratio itself; its `delta` is our `dual_clip`.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from cost.aggregations import Aggregation, BatchTokenMean, ConstantLength, SequenceMean
from learner.objectives.cispo import Cispo
from learner.objectives.clipped_surrogate import ClippedSurrogate, Gspo
from learner.objectives.sapo import Sapo
from learner.objectives.types import Objective

EQUAL, RAGGED = (4, 4, 4), (2, 3, 7)
SEEDS = (0, 1, 2)
LOW, HIGH, DUAL = (False, False), (True, True), (True, False)
"""Clips as (ratio above 1, advantage above 0): the lower, the upper and the dual."""


@dataclass(frozen=True, slots=True)
class Case:
    """One of our objectives and the same in Liger's words."""

    objective: Objective
    aggregation: Aggregation
    settings: dict[str, Any]
    sizes: tuple[int, ...] = EQUAL
    kl_weight: float = 0.0
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
        {**bounds("bnpo", 0.2, 0.28), "delta": 2.0},
        RAGGED,
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
        {"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
        clips=(),
    ),
}


@pytest.fixture(scope="module")
def answers(ask, batches):
    jobs = {
        (key, seed): {
            "settings": {"beta": case.kl_weight, **case.settings},
            "batch": batches(seed, case.sizes).as_job(),
        }
        for key, case in LOSSES.items()
        for seed in SEEDS
    }
    return dict(zip(jobs, ask("liger", list(jobs.values())), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", LOSSES)
def test_losses(answers, batches, compare, key, seed):
    case = LOSSES[key]
    compare(
        answers[key, seed],
        batches(seed, case.sizes),
        case.objective,
        case.aggregation,
        kl_weight=case.kl_weight,
        clips=case.clips,
    )
