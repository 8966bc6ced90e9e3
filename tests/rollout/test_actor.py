"""The actor's pure parts: reports, surprise and the permuted control."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cost.types import RewardStatus, Ticket
from rollout.actor import RolloutActor, empty_report, make_report, permute_rewards, surprise
from rollout.config import RolloutConfig
from rollout.environments import SingleTurn
from rollout.stopping import Stopping
from rollout.types import Completion, Group, Prompt, Trajectory, VersionSpan

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


def test_permuting_moves_rewards_with_their_status_and_nothing_else():
    rewards, status = [0.0, 1.0, np.nan], [0, 0, 2]
    group = make_group([make_trajectory([0.5] * k) for k in (1, 2, 3)], rewards, status)
    seen = set()
    for seed in range(30):
        shuffled = permute_rewards(group, seed)
        assert shuffled.trajectories == group.trajectories
        pairs = list(zip(shuffled.rewards.tolist(), shuffled.reward_status.tolist(), strict=True))
        assert sorted(s for _, s in pairs) == [0, 0, 2]
        assert all(np.isnan(r) == (s == 2) for r, s in pairs)
        seen.add(tuple(np.nan_to_num(shuffled.rewards, nan=-1.0)))
    assert len(seen) == 6


class FakeEngine:
    """Says yes, and remembers how it was asked."""

    def __init__(self):
        self.requests = []

    async def generate(self, token_ids, *, max_tokens, temperature, seed):
        self.requests.append((max_tokens, temperature, seed))
        one = np.ones(1, np.int32)
        return Completion(one, np.zeros(1, np.float32), "stop", (VersionSpan(0, 1, 0),), 0)


@pytest.fixture
def sampled_at():
    """How the engine is asked for the responses of a ticket in a run at temperature 0.7."""

    async def observe(report):
        return None

    async def score(items):
        return [SimpleNamespace(score=None, status=RewardStatus.CRASHED) for _ in items]

    def requests(ticket):
        scheduler = SimpleNamespace(observe=SimpleNamespace(remote=observe))
        config = RolloutConfig(temperature=0.7)
        actor = RolloutActor(config, {}, SingleTurn(), None, scheduler, 3)
        actor._engine = FakeEngine()
        actor._rewards = SimpleNamespace(score=score)
        actor._tokenizer = SimpleNamespace(decode=lambda ids, **_: "yes")
        actor._stopping = Stopping(())
        asyncio.run(actor.run(ticket, PROMPT))
        return actor._engine.requests

    return requests


def test_an_exploring_ticket_is_sampled_at_its_temperature_and_others_at_the_run_s(sampled_at):
    plain = sampled_at(TICKET)
    assert [(tokens, temperature) for tokens, temperature, _ in plain] == [(16, 0.7)] * 3
    exploring = sampled_at(replace(TICKET, temperature_factor=1.2))
    assert exploring == [(tokens, 0.7 * 1.2, seed) for tokens, _, seed in plain]
