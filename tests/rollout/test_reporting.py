"""What the scheduler is told of a group."""

from dataclasses import replace

import numpy as np
import pytest

from cost.types import RewardStatus
from rollout.reporting import MOST_COMPONENTS, empty_report, make_report, surprise
from tests.rollout.groups import PROMPT, TICKET, make_group, make_trajectory


def test_surprise_sums_squared_missing_probability_of_own_tokens():
    trajectory = make_trajectory([1.0, 0.5, 0.25], mask=[True, True, False])
    assert surprise(trajectory) == pytest.approx(0.25)


def test_report_says_what_the_group_cost_and_earned():
    group = make_group(
        [
            make_trajectory([0.5] * 4, versions=((0, 2, 3), (2, None, 4))),
            make_trajectory([1.0] * 16, truncated=True),
            make_trajectory([1.0] * 2),
        ],
        [1.0, 0.0, np.nan],
        [RewardStatus.OK, RewardStatus.OK, RewardStatus.CRASHED],
    )
    report = make_report(TICKET, PROMPT, replace(group, answers=("7", "", "7")))
    assert report.lengths.tolist() == [4, 16, 2]
    assert report.answer_codes.tolist() == [0, 1, 0]
    assert report.truncated.tolist() == [False, True, False]
    assert report.prefill_tokens == 15
    assert report.surprise.tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert report.version == 3
    assert report.engine_seconds == 1.5


def test_parts_of_rewards_are_summed_over_the_responses_that_have_them():
    group = make_group(
        [make_trajectory([1.0]) for _ in range(3)],
        [1.0, 0.0, np.nan],
        [RewardStatus.OK, RewardStatus.OK, RewardStatus.CRASHED],
    )
    parts = {"correct": np.array([1.0, 0.0, np.nan]), "brief": np.array([np.nan, 0.5, np.nan])}
    report = make_report(TICKET, PROMPT, replace(group, reward_components=parts))
    assert report.reward_components == {"correct": (1.0, 2), "brief": (0.5, 1)}
    # A reward may make up a name for every response.
    many = {f"{number:04}": np.ones(3) for number in range(1000)}
    report = make_report(TICKET, PROMPT, replace(group, reward_components=many))
    assert list(report.reward_components) == [f"{number:04}" for number in range(MOST_COMPONENTS)]


def test_a_failed_ticket_reports_an_empty_group():
    report = empty_report(TICKET, PROMPT)
    assert report.num_responses == 0 and report.prompt_tokens == 5 and report.ticket_id == 7
