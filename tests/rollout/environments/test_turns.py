"""Plays of several turns: tokens stay as sampled, and every end is told from the others."""

import asyncio
import inspect
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from transformers import AutoTokenizer

from cost.types import PlayEnd, RewardStatus, Ticket
from rollout.actor import RolloutActor, scored_by_environment
from rollout.clocks import queueing
from rollout.config import RolloutConfig
from rollout.environments.turns import End, Reply, TurnEnvironment
from rollout.reporting import make_report
from rollout.stopping import Stopping
from rollout.types import Completion, Group, Prompt, VersionSpan
from tests.places import CHAIN_MODEL

END = 1


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHAIN_MODEL)


@pytest.fixture
def prompt(tokenizer):
    ids = tokenizer.encode("<|user|>a3<|end|><|assistant|>")
    return Prompt(0, np.array(ids, np.int32), "3", "chain", "a3")


class Policy:
    """Says what it is told to, turn after turn, and keeps what it was asked with."""

    def __init__(self, tokenizer, *texts, ends=True, cached=0):
        self.said = [np.array([*tokenizer.encode(text), *[END] * ends], np.int32) for text in texts]
        self.asked, self.cached = [], cached

    async def __call__(self, token_ids, max_tokens):
        turn = len(self.asked)
        self.asked.append((token_ids.tolist(), max_tokens))
        ids = self.said[turn][:max_tokens]
        whole = len(ids) == len(self.said[turn])
        logprobs = np.full(len(ids), -0.5, np.float32)
        spans = (VersionSpan(0, len(ids), 4 + turn),)
        cached = self.cached if turn else 0
        return Completion(ids, logprobs, "stop" if whole else "length", spans, cached)


@dataclass
class Script:
    """Answers with what is written down."""

    answers: list
    heard: list = field(default_factory=list)

    async def reset(self, prompt):
        self.heard.append(prompt.text)

    async def step(self, response):
        self.heard.append(response)
        answer = self.answers[len(self.heard) - 2]
        if isinstance(answer, Exception):
            raise answer
        return answer


def play(tokenizer, prompt, policy, game, max_tokens=200, **settings):
    environment = TurnEnvironment(game, **settings).for_policy(tokenizer, Stopping((END,)))
    return asyncio.run(environment.play(policy, prompt, max_tokens))


def test_what_was_sampled_goes_back_as_it_was_and_the_template_adds_what_lies_between(
    tokenizer, prompt
):
    policy = Policy(tokenizer, "x", "y", "z", cached=5)
    game = Script([Reply(("o",), calls=2, failed_calls=1), "p", End()])
    trajectory = play(tokenizer, prompt, policy, game)
    first, second, third = (ids for ids, _ in policy.asked)
    assert first == prompt.token_ids.tolist()
    between = tokenizer.encode("<|tool|>o<|end|><|assistant|>")
    assert second == [*first, *policy.said[0], *between]
    assert third[: len(second)] == second
    assert trajectory.token_ids.tolist() == [*third[len(first) :], *policy.said[2]]
    own = trajectory.token_ids[trajectory.loss_mask].tolist()
    assert own == np.concatenate(policy.said).tolist()
    assert (trajectory.rollout_logprobs[~trajectory.loss_mask] == 0).all()
    for turn, span, said in zip(
        trajectory.turns, trajectory.version_spans, policy.said, strict=True
    ):
        assert (turn.start, turn.end) == (span.start, span.end)
        assert trajectory.token_ids[turn.start : turn.end].tolist() == said.tolist()
    assert [span.version for span in trajectory.version_spans] == [4, 5, 6]
    assert [t.prefill_tokens for t in trajectory.turns] == [
        len(first), len(second) - 5, len(third) - 5
    ]  # fmt: skip
    assert trajectory.prefill_tokens == sum(t.prefill_tokens for t in trajectory.turns)
    assert [(t.calls, t.failed_calls) for t in trajectory.turns] == [(2, 1), (0, 0), (0, 0)]
    assert trajectory.end == PlayEnd.ANSWER and trajectory.reward is None
    assert trajectory.last_turn.tolist() == policy.said[2].tolist()


def test_each_play_has_a_game_of_its_own(tokenizer, prompt):
    game = Script(["o", End(0.5)])
    for _ in range(2):
        assert play(tokenizer, prompt, Policy(tokenizer, "x", "y"), game).reward == 0.5
    assert game.heard == []


@pytest.mark.parametrize(
    ("answers", "settings", "max_tokens", "end", "num_turns"),
    [
        ([End()], {}, 200, PlayEnd.ANSWER, 1),
        (["o"] * 3, {"max_turns": 2}, 200, PlayEnd.MAX_TURNS, 2),
        (["o"] * 3, {}, 1, PlayEnd.TOKENS, 1),  # within a turn
        (["o"] * 3, {}, 4, PlayEnd.TOKENS, 1),  # an observation that leaves no room
        ([RuntimeError("broken")], {}, 200, PlayEnd.FAILURE, 1),
    ],
)
def test_every_end_is_told_from_the_others(
    tokenizer, prompt, answers, settings, max_tokens, end, num_turns
):
    policy = Policy(tokenizer, "x", "y", "z")
    found = play(tokenizer, prompt, policy, Script(answers), max_tokens, **settings)
    assert (found.end, len(found.turns)) == (end, num_turns)
    assert found.truncated is (end == PlayEnd.TOKENS)
    assert len(found.token_ids) <= max_tokens
    assert found.loss_mask[-1]
    group = Group(
        Ticket(0, 0, 1, 1.0, 1.0, max_tokens), prompt, (found,), np.zeros(1), {}, np.zeros(1, int),
        ("",), 0.1,
    )  # fmt: skip
    report = make_report(group.ticket, prompt, group)
    assert report.ends.tolist() == [int(end)] and report.num_turns.tolist() == [num_turns]
    assert report.own_lengths.tolist() == [int(found.loss_mask.sum())]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (7, "step raised TypeError: step must return a text, a Reply or an End, got 7"),
        (None, "got None"),
        (Reply(()), "Reply.texts must be a list of one text or more"),
        (Reply("two"), "Reply.texts must be a list of one text or more, got 'two'"),
        (Reply(token_ids=()), "Reply.token_ids must not be empty"),
        (End(float("nan")), "End.reward must be finite"),
        (ValueError("bad"), "environment.game: Script.step raised ValueError: bad"),
        (TimeoutError("read timed out"), "Script.step raised TimeoutError: read timed out"),
    ],
)
def test_a_game_that_fails_costs_its_play_and_says_why(tokenizer, prompt, answer, said):
    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Script([answer]))
    assert found.end == PlayEnd.FAILURE and said in found.failure
    scored = scored_by_environment(found)
    assert scored.status == RewardStatus.CRASHED and scored.error == found.failure


def test_the_line_that_raised_is_told(tokenizer, prompt):
    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Script([ValueError("bad")]))
    line = inspect.getsourcelines(Script.step)[1] + 4
    assert found.failure.endswith(f"raised ValueError: bad ({__file__}:{line})")
    # What a game returns is no line's fault.
    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Script([7]))
    assert found.failure.endswith("got 7")


class Sleeper:
    """Its step is a plain function, and hangs."""

    async def reset(self, prompt):
        """Begin."""

    def step(self, response):
        time.sleep(0.3)
        return End()


class Meeting:
    """Its step is a plain function, and waits for all others."""

    def __init__(self, barrier):
        self.barrier = barrier

    def __deepcopy__(self, memo):
        return self

    async def reset(self, prompt):
        """Begin."""

    def step(self, response):
        self.barrier.wait()
        return End(1.0)


def test_as_many_plays_wait_at_a_time_as_an_engine_has(tokenizer, prompt):
    """However few processors there are."""
    game = Meeting(threading.Barrier(100, timeout=20))
    player = TurnEnvironment(game).for_policy(tokenizer, Stopping((END,)))

    async def main():
        plays = (player.play(Policy(tokenizer, "x"), prompt, 99) for _ in range(100))
        return await asyncio.gather(*plays)

    assert [played.reward for played in asyncio.run(main())] == [1.0] * 100


def test_a_game_that_hangs_ends_its_play_in_time(tokenizer, prompt):
    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Sleeper(), step_timeout_seconds=0.02)
    assert "took longer than environment.step_timeout_seconds = 0.02" in found.failure
    assert found.end == PlayEnd.FAILURE and len(found.turns) == 1


def test_what_a_game_queues_for_is_no_part_of_its_time(tokenizer, prompt):
    class Queues(Script):
        async def step(self, response):
            with queueing():
                await asyncio.sleep(0.3)
            return End(1.0)

    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Queues([]), step_timeout_seconds=0.1)
    assert found.reward == 1.0


def test_a_game_that_cannot_begin_fails_without_a_token(tokenizer, prompt):
    class Never(Script):
        async def reset(self, prompt):
            raise OSError("no server")

    found = play(tokenizer, prompt, Policy(tokenizer, "x"), Never([]))
    assert "Never.reset raised OSError: no server" in found.failure
    assert found.end == PlayEnd.FAILURE and len(found.token_ids) == 0


def test_tokens_of_a_game_are_taken_as_they_are(tokenizer, prompt):
    policy = Policy(tokenizer, "x", "y")
    found = play(tokenizer, prompt, policy, Script([Reply(token_ids=[9, 8]), End()]))
    assert policy.asked[1][0][-2:] == [9, 8]
    assert found.loss_mask.tolist() == [True, True, False, False, True, True]


def test_an_actor_takes_the_environment_s_reward_and_scores_the_last_turn_of_others(
    tokenizer, prompt
):
    async def run():
        scored = []

        class Rewards:
            async def score(self, items):
                from rollout.rewards.pool import ScoredResponse
                from rollout.rewards.types import Score

                scored.extend(items)
                return [ScoredResponse(Score(0.25), RewardStatus.OK, "") for _ in items]

        actor = RolloutActor(RolloutConfig(), {}, None, None, None, 0)
        actor._tokenizer, actor._stopping, actor._rewards = tokenizer, Stopping((END,)), Rewards()
        plays = []
        for answers in (["o", End()], ["o", End(0.75)], [RuntimeError("gone")]):
            player = TurnEnvironment(Script(answers)).for_policy(tokenizer, Stopping((END,)))
            plays.append(await player.play(Policy(tokenizer, "x", "y"), prompt, 99))
        group = await actor._scored(Ticket(0, 0, 3, 1.0, 1.0, 99), prompt, plays, 0.0)
        return group, scored

    group, scored = asyncio.run(run())
    assert scored == [("a3", "y", "3", {})]
    assert group.rewards[:2].tolist() == [0.25, 0.75] and np.isnan(group.rewards[2])
    assert group.reward_status.tolist() == [0, 0, int(RewardStatus.CRASHED)]
    assert "gone" in group.reward_failure


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"game": 3}, "environment.game must be an object with the methods reset and step, got 3"),
        ({"game": Script([threading.Lock()])}, "environment.game must be .* copied .* got Script"),
        ({"max_turns": 0}, "environment.max_turns"),
        ({"role": "system"}, "environment.role must be tool or user, got 'system'"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        TurnEnvironment(**({"game": Script([])} | settings))
