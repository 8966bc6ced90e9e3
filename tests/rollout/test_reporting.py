"""What the scheduler is told of a group."""

from dataclasses import replace

import numpy as np
import pytest

from cost.types import RewardStatus, Ticket
from rollout.reporting import empty_report, make_report, surprise
from rollout.types import Group, Prompt, Trajectory, VersionSpan

TICKET = Ticket(7, 2, 3, 0.25, 0.5, 16)
PROMPT = Prompt(2, np.arange(5, dtype=np.int32), "1", "fake", "question")


def make_trajectory(probabilities, mask=None, versions=((0, None, 3),), truncated=False):
    logprobs = np.log(np.asarray(probabilities, dtype=np.float32))
    mask = np.ones(len(logprobs), bool) if mask is None else np.asarray(mask)
    spans = tuple(VersionSpan(a, len(logprobs) if b is None else b, v) for a, b, v in versions)
    tokens = np.arange(len(logprobs), dtype=np.int32)
    return Trajectory(tokens, mask, logprobs, spans, truncated, prefill_tokens=5)


def make_group(trajectories, rewards, status=None):
    rewards = np.asarray(rewards, dtype=np.float64)
    status = np.zeros(len(rewards), np.int64) if status is None else np.asarray(status)
    return Group(TICKET, PROMPT, tuple(trajectories), rewards, {}, status, ("",) * 3, 1.5)


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


def test_a_failed_ticket_reports_an_empty_group():
    report = empty_report(TICKET, PROMPT)
    assert report.num_responses == 0 and report.prompt_tokens == 5 and report.ticket_id == 7
