"""Soft overlong penalty and overlong filtering."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from cost.scheduler.reports import checked
from cost.types import RewardStatus, Ticket
from rollout.actor import RolloutActor
from rollout.config import OverlongConfig, RolloutConfig
from rollout.reporting import make_report
from rollout.shaping import overlong_shares, shape_rewards
from rollout.types import Group, Prompt, Sampling, Trajectory, VersionSpan

OK, CRASHED, TRUNCATED = RewardStatus.OK, RewardStatus.CRASHED, RewardStatus.TRUNCATED
MASKED = RewardStatus.MASKED


def make_group(lengths, rewards, status=None, max_tokens=20):
    trajectories = tuple(
        Trajectory(
            token_ids=np.zeros(length, dtype=np.int32),
            loss_mask=np.ones(length, dtype=bool),
            rollout_logprobs=np.zeros(length, dtype=np.float32),
            version_spans=(VersionSpan(0, length, 0),),
            truncated=length >= max_tokens,
            prefill_tokens=5,
        )
        for length in lengths
    )
    count = len(lengths)
    ticket = Ticket(0, 0, count, 0.5, 1.0, max_tokens)
    prompt = Prompt(0, np.arange(5, dtype=np.int32), "1", "fake", "question")
    return Group(
        ticket,
        prompt,
        trajectories,
        np.asarray(rewards, dtype=np.float64),
        {},
        np.asarray(status if status is not None else [OK] * count, dtype=np.int64),
        ("",) * count,
        1.0,
    )


def test_numbers_of_the_paper():
    lengths = np.array([1, 16383, 16384, 17408, 18432, 20480, 30000])
    shares = overlong_shares(lengths, max_tokens=20480, buffer_share=0.2)
    assert shares.tolist() == [0, 0, 0, 0.25, 0.5, 1, 1]


def test_the_penalty_is_taken_off_the_reward_and_nothing_else_changes():
    group = make_group([4, 12, 16, 20], [1.0, 1.0, 0.0, 1.0])
    shaped = shape_rewards(group, OverlongConfig(buffer_share=0.4, penalty=0.5))
    assert shaped.rewards.tolist() == [1.0, 1.0, -0.25, 0.5]
    assert replace(shaped, rewards=group.rewards).trajectories == group.trajectories
    assert shaped.reward_status.tolist() == [OK] * 4
    assert shaped.answers == group.answers and shaped.ticket == group.ticket


def test_by_default_no_reward_changes():
    group = make_group([4, 20], [0.1, 1.0])
    shaped = shape_rewards(group, RolloutConfig().overlong)
    assert shaped.rewards.tolist() == [0.1, 1.0]
    assert shaped.reward_status.tolist() == [OK, OK]


def test_filtering_leaves_truncated_responses_without_a_usable_reward():
    group = make_group([4, 20, 20], [1.0, 0.0, np.nan], [OK, OK, CRASHED])
    shaped = shape_rewards(group, OverlongConfig(buffer_share=0.5, filter_truncated=True))
    assert shaped.reward_status.tolist() == [OK, TRUNCATED, CRASHED]
    assert shaped.rewards[0] == 1.0 and np.isnan(shaped.rewards[1:]).all()
    report = checked(make_report(group.ticket, group.prompt, shaped), group.ticket)
    assert report.usable.tolist() == [True, False, False]
    assert report.truncated.tolist() == [False, True, True]


def test_masking_leaves_truncated_responses_their_reward_and_out_of_the_loss():
    group = make_group([4, 20, 20, 20], [1.0, 0.0, np.nan, 1.0], [OK, OK, CRASHED, OK])
    shaped = shape_rewards(group, OverlongConfig(buffer_share=0.5, mask_truncated=True))
    assert shaped.reward_status.tolist() == [OK, MASKED, CRASHED, MASKED]
    report = checked(make_report(group.ticket, group.prompt, shaped), group.ticket)
    np.testing.assert_array_equal(report.rewards, [1.0, -1.0, np.nan, 0.0])
    assert report.usable.tolist() == [True, True, False, True]
    assert report.trainable.tolist() == [True, False, False, False]


def test_truncated_responses_are_left_out_in_one_way():
    with pytest.raises(ValueError, match=r"^rollout\.overlong\.mask_truncated must be false with"):
        OverlongConfig(filter_truncated=True, mask_truncated=True)


def test_failed_scorings_keep_their_status_and_have_no_reward():
    group = make_group([18, 19], [np.nan, 1.0], [RewardStatus.TIMED_OUT, OK])
    shaped = shape_rewards(group, OverlongConfig(buffer_share=0.5))
    assert shaped.reward_status.tolist() == [RewardStatus.TIMED_OUT, OK]
    assert math.isnan(shaped.rewards[0]) and shaped.rewards[1] == pytest.approx(0.1)


class Scheduler:
    """Takes reports as the actor's handle does."""

    def __init__(self):
        self.reports = []
        self.observe = self

    async def remote(self, report):
        self.reports.append(report)


class Scripted(RolloutActor):
    """An actor whose engine and reward have answered."""

    async def _sample(self, ticket, prompt, sampling, branching=None):
        return make_group([4, 18, 20], [1.0, 1.0, 0.0])


def test_training_sees_shaped_rewards_and_evaluation_does_not():
    config = RolloutConfig(overlong=OverlongConfig(buffer_share=0.2, filter_truncated=True))
    scheduler = Scheduler()
    actor = Scripted(config, {}, None, None, scheduler, seed=0)
    group = make_group([4], [0.0])
    report, trained = asyncio.run(actor.run(group.ticket, group.prompt))
    np.testing.assert_array_equal(report.rewards, [1.0, 0.5, np.nan])
    np.testing.assert_array_equal(trained.rewards, report.rewards)
    assert scheduler.reports == [report]
    assert report.status.tolist() == [OK, OK, TRUNCATED]
    evaluated = asyncio.run(actor.evaluate(group.ticket, group.prompt, Sampling(0.0)))
    assert evaluated.rewards.tolist() == [1.0, 1.0, 0.0]
    assert evaluated.status.tolist() == [OK, OK, OK]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("buffer_share", -0.1), ("buffer_share", 1.1), ("buffer_share", math.nan),
        ("penalty", 0.0), ("penalty", -1.0), ("penalty", math.nan), ("penalty", math.inf),
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^rollout\.overlong\.{key} .* got {value!r}$"):
        OverlongConfig(**{key: value})
