"""Whatever a reward returns is a score of plain numbers, or refused by name."""

import json
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from rollout.rewards.returned import as_score
from rollout.rewards.types import Score

ONES = [
    1.0,
    1,
    True,
    np.float16(1),
    np.float64(1),
    np.int8(1),
    np.uint64(1),
    np.bool_(True),
    np.array(1.0),
    torch.tensor(1.0),
    torch.tensor(1, dtype=torch.int32),
    torch.tensor(True),
    torch.tensor(1.0, dtype=torch.bfloat16),
    Decimal("1.0"),
    Fraction(1),
]


def plain(score):
    """The score, which must be of plain numbers to leave the process that made it."""
    assert type(score.reward) is float
    assert all(type(part) is float for part in score.components.values())
    assert Score(**json.loads(json.dumps(asdict(score)))) == score
    return score


@pytest.mark.parametrize("one", ONES, ids=lambda one: f"{type(one).__name__}-{one!r}")
def test_every_number_is_a_reward_alone_in_a_dict_and_in_a_score(one):
    assert plain(as_score(one)) == Score(1.0)
    assert plain(as_score({"reward": one})) == Score(1.0)
    assert plain(as_score({"score": one, "part": one})) == Score(1.0, {"part": 1.0})
    assert plain(as_score(Score(one, {"part": one}, "5"))) == Score(1.0, {"part": 1.0}, "5")


def test_a_tensor_with_a_gradient_is_a_number_without_a_warning():
    assert plain(as_score(torch.ones((), requires_grad=True))) == Score(1.0)


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        ({"reward": 0.5, "score": 2, "format": False}, Score(0.5, {"score": 2.0, "format": 0.0})),
        ({"score": 1, "acc": True, "pred": "7"}, Score(1.0, {"acc": 1.0}, "7")),
        ({"score": 0, "pred": None, "note": "none", "steps": [1, 2]}, Score(0.0)),
        (
            {"reward": 1.0, "components": {"correct": 1.0}, "extracted": "5"},
            Score(1.0, {"correct": 1.0}, "5"),
        ),
        (Score(1.0, {}, 5), Score(1.0, {}, "5")),
        (Score(1.0, {}, None), Score(1.0)),
    ],
)
def test_dicts_hold_a_reward_and_its_components(returned, score):
    assert plain(as_score(returned)) == score


def coroutine():
    async def score():
        return 1.0

    made = score()
    made.close()
    return made


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, "None; is there a way through it without a return"),
        ("1.0", "str '1.0'"),
        (b"1", "bytes b'1'"),
        (np.str_("1"), "str_"),
        ([1.0], r"list \[1.0\]"),
        ((1.0, "5"), "tuple"),
        (np.ones(1), r"ndarray of shape \(1,\); take one"),
        (torch.ones(2, 3), r"Tensor of shape \(2, 3\)"),
        (1 + 0j, "complex"),
        (np.complex128(1), "complex128"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (object, "type"),
        (coroutine(), "coroutine"),
        ({}, r"a dict with the keys \[\]"),
        ({"rewards": 1.0}, r"a dict with the keys \['rewards'\]"),
        ({"reward": None}, "None"),
        ({"score": "1"}, "str '1'"),
        (float("nan"), "finite, got nan"),
        (-float("inf"), "finite, got -inf"),
        (np.float32("nan"), "finite, got nan"),
        (torch.tensor(float("nan")), "finite, got nan"),
        (10**400, "too large"),
        ({"reward": float("nan")}, "finite, got nan"),
    ],
)
def test_what_is_no_number_is_refused_by_name(returned, told):
    with pytest.raises(ValueError, match=rf"^a reward must return a number.*{told}"):
        as_score(returned)


@pytest.mark.parametrize("part", [float("nan"), None, "high", np.ones(2)])
def test_a_component_is_a_finite_number(part):
    # One that cannot be looked at as a number at all is refused where the score is made.
    with pytest.raises((ValueError, TypeError), match=r"part must be|must be real number|only"):
        as_score(Score(1.0, {"part": part}))
    with pytest.raises(ValueError, match="component part must be"):
        as_score({"reward": 1.0, "components": {"part": part}})
