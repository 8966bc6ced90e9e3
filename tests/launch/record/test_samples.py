from dataclasses import replace

import numpy as np

from cost.types import PlayEnd, RewardStatus, Selection, Ticket
from launch.record.samples import samples_of
from launch.record.tracking import Sample
from rollout.types import Group, Prompt, Trajectory, VersionSpan


def trajectory(length):
    return Trajectory(
        np.arange(length, dtype=np.int32), np.ones(length, bool), np.zeros(length, np.float32),
        (VersionSpan(0, length, 0),), False, 3,
    )  # fmt: skip


def test_each_response_stands_beside_what_was_made_of_it():
    failed = replace(trajectory(2), ending=PlayEnd.FAILURE, failure="no route")
    group = Group(
        Ticket(7, 0, 2, 0.1, 1.0, 8), Prompt(0, np.arange(3, dtype=np.int32), "5", "mine", "2+3"),
        (trajectory(4), failed), np.array([1.0, np.nan]), {},
        np.array([RewardStatus.OK, RewardStatus.CRASHED]), ("5", ""), 0.1,
    )  # fmt: skip
    selection = Selection(
        7, np.array([True, False]), np.array([1.5, 0.0]), np.array([0.5, 0.0]), np.ones(2)
    )
    first, second = samples_of(group, selection, ["it is 5", "what?"])
    assert first == Sample("2+3", "it is 5", "5", "5", 1.0, 4, 0.5, 1.5)
    assert (second.response, second.answer, second.length_tokens) == ("what?", "", 2)
    assert (second.end, second.failure) == ("failure", "no route")
    assert np.isnan(second.reward) and second.weight == 0.0
