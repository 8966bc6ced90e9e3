"""Groups come back from their files as they were."""

import dataclasses

import numpy as np
import pytest

from cost.state_file import save_state
from cost.types import Ticket
from rollout.group_file import load_group, save_group
from rollout.types import Group, Prompt, Trajectory, VersionSpan


def assert_equal(one, other):
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, dict):
        assert_equal(tuple(one.items()), tuple(other.items()))
    else:
        assert one == other


@pytest.mark.parametrize("size", [0, 3])
def test_a_group_comes_back_equal_to_the_bit(tmp_path, size):
    trajectories = tuple(
        Trajectory(
            np.arange(k + 1, dtype=np.int32),
            np.arange(k + 1) % 2 == 0,
            -np.random.default_rng(k).random(k + 1).astype(np.float32),
            (VersionSpan(0, k, 4), VersionSpan(k, k + 1, 5)),
            k == 2,
            7,
        )
        for k in range(size)
    )
    group = Group(
        Ticket(17, 3, 2, 0.0125, 0.625, 256, temperature_factor=1.25, attempt=2),
        Prompt(
            3,
            np.array([2, 69], np.int32),
            "7",
            "chain",
            "ä3 b+4\n",
            {"level": 2, "tests": ["a", {"b": None}]},
            (1.0, 0.1),
        ),
        trajectories,
        np.array([1.0, np.nan, 0.1])[:size],
        {"correct": np.ones(size)},
        np.array([0, 1, 0])[:size],
        ("7", "", "ü")[:size],
        0.42,
        "KeyError: 'lost'",
    )
    save_group(tmp_path / "17.npz", group)
    assert_equal(load_group(tmp_path / "17.npz"), group)


def test_another_file_is_refused(tmp_path):
    save_state(tmp_path / "17.npz", {"ticket": 17})
    with pytest.raises(ValueError, match=r"must be a file of save_group, got .*17\.npz"):
        load_group(tmp_path / "17.npz")
