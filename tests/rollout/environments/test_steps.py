"""Environments of others run as they are: Gymnasium's way, OpenEnv's, and a plain one."""

import asyncio
import functools
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from rollout.environments.steps import StepGame, StepTask, parts_of
from rollout.environments.turns import End, Reply
from rollout.own_code import build
from rollout.types import Prompt
from tests.places import CHAIN_MODEL


class Gym:
    """Guess a number; reset takes a seed, step gives five values."""

    closed = 0

    def __init__(self, most=9):
        self.most = most

    def reset(self, *, seed=None, options=None):
        self.secret = seed % self.most
        return f"guess from 0 to {self.most}, game {seed}", {}

    def step(self, action):
        right = int(action) == self.secret
        return "higher" if int(action) < self.secret else "lower", 1.0 * right, right, False, {}

    def close(self):
        Gym.closed += 1


class OpenEnv:
    """The same, async, with results."""

    async def reset(self, seed=None):
        self.secret = seed % 9
        return SimpleNamespace(observation=SimpleNamespace(text="guess"), reward=None, done=False)

    async def step(self, action):
        right = int(action) == self.secret
        observation = SimpleNamespace(text="no")
        return SimpleNamespace(observation=observation, reward=float(right), done=right)


def prompt(answer):
    return Prompt(0, None, answer, "", "")


async def steps(game, answer, *responses):
    await game.reset(prompt(answer))
    return [await game.step(response) for response in responses]


@pytest.mark.parametrize(("make", "answer"), [(Gym, "higher"), (OpenEnv, "no")])
def test_environments_of_either_kind_are_played_to_their_end(make, answer):
    found = asyncio.run(steps(StepGame(make), "13", "2", "4"))
    assert found == [Reply((answer,)), End(1.0)]


def test_an_evaluation_set_s_address_is_no_part_of_the_seed():
    assert asyncio.run(steps(StepGame(Gym), "set\x1f13", "4")) == [End(1.0)]


def test_prompts_are_what_environments_say_and_splits_share_none():
    tokenizer = AutoTokenizer.from_pretrained(CHAIN_MODEL)
    make = functools.partial(Gym, most=5)
    sets = [
        StepTask(make=make, split=split, num_prompts=3).prompts(tokenizer)
        for split in ("train", "held_out")
    ]
    assert [p.text for p in sets[0]] == [f"guess from 0 to 5, game {k}" for k in range(3)]
    assert [p.answer for p in sets[0]] == ["0", "1", "2"] and sets[0][0].source == "Gym"
    assert not {p.text for p in sets[0]} & {p.text for p in sets[1]}
    assert Gym.closed >= 6
    # By the name of its class, too, where a file names it.
    named = functools.partial(build, path=f"{__file__}:Gym")
    assert StepTask(make=named).prompts(tokenizer)[0].source == "Gym"
    # Those that begin alike are one prompt.
    assert len(StepTask(make=OpenEnv, num_prompts=4).prompts(tokenizer)) == 1


def test_an_environment_that_cannot_begin_is_refused_in_one_sentence():
    def make():
        raise OSError("no server")

    with pytest.raises(ValueError, match=r"^task.make: environment 0 cannot begin \(OSError: no s"):
        StepTask(make=make).prompts(None)


@pytest.mark.parametrize("found", [3, ("text", 1.0), SimpleNamespace(reward=1.0)])
def test_what_is_no_step_is_said(found):
    with pytest.raises(TypeError, match=r"step must return \(observation, reward, done"):
        parts_of(found)


def test_an_observation_that_is_no_text_needs_somebody_to_make_one():
    class Numbers(Gym):
        def step(self, action):
            return 7, 0.0, False, {}

    with pytest.raises(TypeError, match=r"set environment\.game\.observation, got 7"):
        asyncio.run(steps(StepGame(Numbers), "1", "2"))
    found = asyncio.run(steps(StepGame(Numbers, observation=str), "1", "2"))
    assert found == [Reply(("7",))]
