"""Where groups branch, in closed forms, and that a branch goes on from the very place."""

import asyncio
import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from rollout.environments.branching import (
    Branch,
    EntropyBranching,
    Played,
    entropy_change,
    mean_surprisal,
    play_branching,
)
from rollout.environments.bridge import Bridge
from rollout.environments.turns import End, Reply, TurnEnvironment, TurnPlayer
from rollout.stopping import Stopping
from rollout.types import Completion, Prompt, Trajectory, Turn, VersionSpan

RULE = EntropyBranching()
PROMPT = Prompt(0, np.array([7, 8], np.int32), "", "task", "")


@pytest.mark.parametrize(
    ("entropies", "expected"),
    [
        ((1.0, 1.0), 4),  # sigmoid(0) = 1/2
        ((1.0, 1.0 + math.log(3)), 2),  # sigmoid(-log 3) = 1/4
        ((1.0 + math.log(7), 0.5, 1.5), 7),  # sigmoid(log 7) = 7/8
        ((0.0, 99.0), 1),
        ((99.0, 0.0), 8),
        ((1.0,), 8),
    ],
)
def test_what_the_first_play_shows_shares_out_the_group(entropies, expected):
    assert RULE.num_from_prompt(8, entropies) == expected
    assert EntropyBranching(beta=0.0).num_from_prompt(8, entropies[:2] * 2) == 4


def test_each_branch_in_a_row_takes_its_penalty_of_the_score():
    assert RULE.score(0.0, 0) == 0.5 and RULE.score(1.0, 0) == pytest.approx(0.7)
    assert RULE.score(1.0, 2) == pytest.approx(0.7 * 0.6)
    assert EntropyBranching(penalty=1.0).score(5.0, 1) == 0


def test_a_play_branches_where_it_is_less_sure_than_at_first():
    # Scores of the turns: .7; .7 x .8; .8 x .6, which ends the row; .8; .5; .7.
    played = Played((1.0, 2.0, 2.0, 2.5, 2.5, 1.0, 2.0))
    assert RULE.branches([(3, played)]) == [
        Branch(3, 1, 1), Branch(3, 2, 2), Branch(3, 4, 1), Branch(3, 6, 1)
    ]  # fmt: skip
    sure = Played((1.0, 1.0, 0.2))
    assert RULE.branches([(0, sure), (1, Played((0.1, 0.2)))]) == [Branch(1, 1, 1)]


def test_a_branch_goes_on_in_the_row_of_its_origin_and_not_at_its_own_first_turn():
    # Turn 1 was branched at; behind it a score of .9 x .8.
    again = Played((0.0, 9.0, 2.0), first_turn=1, in_a_row=1)
    assert RULE.branches([(5, again)]) == [Branch(5, 2, 2)]
    assert EntropyBranching(penalty=0.5).branches([(5, again)]) == []


def trajectory(*turns, between=2):
    """Turns of log-probabilities, with tokens of the environment between."""
    parts, mask, logprobs = [], [], []
    for turn in turns:
        if parts:
            mask += [False] * between
            logprobs += [0.0] * between
        start = len(mask)
        mask += [True] * len(turn)
        logprobs += turn
        parts.append(Turn(start, len(mask), 0))
    return Trajectory(
        np.zeros(len(mask), np.int32), np.array(mask), np.array(logprobs, np.float32), (), False, 0,
        tuple(parts),
    )  # fmt: skip


def test_entropy_is_the_mean_surprise_of_the_first_tokens_of_a_turn():
    played = trajectory([-1.0, -3.0, -8.0], [-0.5], [])
    assert EntropyBranching(entropy_tokens=2).entropies(played) == (2.0, 0.5, 0.0)
    assert mean_surprisal(played, 0, 3) == 4
    assert entropy_change(played) == 0.5 - 4
    assert entropy_change(trajectory([-1.0], [-2.0, -4.0], [-6.0])) == 3
    assert entropy_change(trajectory([-1.0])) == entropy_change(trajectory([-1.0], [])) == 0


@dataclass
class Counting:
    """A game that says how often it was asked, twice, and ends then."""

    heard: list = field(default_factory=list)

    async def reset(self, prompt):
        self.heard.append("reset")

    async def step(self, response):
        self.heard.append(response)
        if len(self.heard) == 4:
            return End(reward=float(len(self.heard)))
        return Reply(token_ids=[50 + len(self.heard)], calls=1)


class Words:
    def decode(self, token_ids, **settings):
        return " ".join(map(str, token_ids))


class Group:
    """Plays of a policy that is sure at first and in some turns not, by position and turn."""

    def __init__(self, unsure, game=None):
        self.unsure, self.asked = unsure, []
        settings = TurnEnvironment(game or Counting())
        self.player = TurnPlayer(settings, Bridge(Words()), Stopping(()))

    async def __call__(self, position, start, nodes):
        calls = 0

        async def generate(token_ids, max_tokens):
            nonlocal calls
            turn = 0 if start is None else len(start.record.turns)
            turn, calls = turn + calls, calls + 1
            self.asked.append((position, turn, token_ids.tolist()))
            surprise = self.unsure.get((position, turn), 0.1)
            return Completion(
                np.array([10 * position + turn], np.int32), np.array([-surprise], np.float32),
                "stop", (VersionSpan(0, 1, 0),), 0,
            )  # fmt: skip

        return await self.player.play_on(generate, PROMPT, 100, start, nodes)


def test_a_branch_goes_on_from_the_very_place_and_counts_only_what_is_its_own():
    group = Group({(0, 2): 3.0})
    # Half of a group of two is from the prompt, the other branches before turn 2.
    first, second = asyncio.run(play_branching(EntropyBranching(beta=0.0), group, 2))
    assert first.token_ids.tolist() == [0, 52, 1, 53, 2]
    assert second.token_ids.tolist() == [0, 52, 1, 53, 12]
    assert group.asked[-1] == (1, 2, [7, 8, 0, 52, 1, 53])
    assert (first.inherited_tokens, second.inherited_tokens) == (0, 2)
    assert (first.reward, second.reward) == (4.0, 4.0)
    assert [turn.prefill_tokens for turn in first.turns] == [2, 4, 6]
    # The engine computes for a branch what stands before its first own turn, without a cache.
    assert [turn.prefill_tokens for turn in second.turns] == [0, 0, 6]
    assert second.prefill_tokens == 6 and [turn.calls for turn in second.turns] == [1, 1, 0]
    assert second.rollout_logprobs.tolist() == pytest.approx([-0.1, 0, -0.1, 0, -0.1])
    assert len(second.version_spans) == 3


def test_branches_come_in_waves_and_what_is_left_is_from_the_prompt():
    rule = EntropyBranching(beta=0.0, penalty=0.0)
    # Plays 0 to 3 are from the prompt; 1 is unsure twice; its first branch is unsure again.
    group = Group({(1, 1): 2.0, (1, 2): 2.0, (4, 2): 2.0})
    played = asyncio.run(play_branching(rule, group, 8))
    assert [each.inherited_tokens for each in played] == [0, 0, 0, 0, 1, 2, 2, 0]
    assert played[6].token_ids.tolist() == [10, 52, 41, 53, 62]
    again = Group(group.unsure)
    assert [t.token_ids.tolist() for t in asyncio.run(play_branching(rule, again, 8))] == [
        t.token_ids.tolist() for t in played
    ]
    # A group of one is the play itself, and a smaller one has fewer branches.
    assert len(asyncio.run(play_branching(rule, Group({}), 1))) == 1
    fewer = asyncio.run(play_branching(rule, Group({(1, 1): 2.0, (1, 2): 2.0}), 3))
    assert [each.inherited_tokens for each in fewer] == [0, 0, 1]


class Locked(Counting):
    """Holds what cannot be copied, once it is played."""

    async def reset(self, prompt):
        await super().reset(prompt)
        self.heard.append(each for each in ())


def test_a_game_that_cannot_be_copied_in_the_middle_is_played_from_the_prompt():
    played = asyncio.run(
        play_branching(EntropyBranching(beta=0.0), Group({(0, 1): 5.0}, Locked()), 3)
    )
    assert [each.inherited_tokens for each in played] == [0, 0, 0]
    assert not any(each.failure for each in played)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": -1.0}, {"gamma": math.inf}, {"penalty": 1.5}, {"threshold": -0.1}, {"beta": -1.0},
        {"entropy_tokens": 0},
    ],
)  # fmt: skip
def test_refuses(changes):
    with pytest.raises(
        ValueError, match=rf"^rollout\.branching\.{next(iter(changes))} must .* got"
    ):
        EntropyBranching(**changes)
