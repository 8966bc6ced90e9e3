"""Environments that are a function, a class or a game of one file."""

import asyncio
import pickle
from dataclasses import replace

import numpy as np
import pytest

from rollout.environments.function import FunctionEnvironment
from rollout.environments.turns import TurnEnvironment
from rollout.types import Completion, Prompt, Trajectory, VersionSpan

FILE = """
async def short(generate, prompt, max_tokens, share=0.5):
    return await generate(prompt.token_ids, int(share * max_tokens))

async def wrong(generate, prompt):
    await generate(prompt.token_ids, 1)

async def needs(generate, other):
    pass

def plain(generate):
    pass

class Whole:
    async def play(self, generate, prompt, max_tokens):
        return await generate(prompt.token_ids, 3)

class Limited(Whole):
    def __init__(self, max_turns=5):
        self.max_turns = max_turns

class Game:
    def reset(self, prompt):
        pass

    def step(self, response):
        return "again"

class Neither:
    pass
"""
PROMPT = Prompt(0, np.array([2, 7, 8], np.int32), "5", "chain", "a3")


@pytest.fixture
def environment(tmp_path):
    path = tmp_path / "environments_of_mine.py"
    path.write_text(FILE)
    return lambda name, **settings: FunctionEnvironment(f"{path}:{name}", settings)


def play(environment):
    asked = []

    async def generate(token_ids, max_tokens):
        asked.append(max_tokens)
        return Completion(
            np.array([4], np.int32),
            np.array([-0.5], np.float32),
            "stop",
            (VersionSpan(0, 1, 0),),
            0,
        )

    played = asyncio.run(pickle.loads(pickle.dumps(environment)).play(generate, PROMPT, 16))
    assert isinstance(played, Trajectory) and played.loss_mask.tolist() == [True]
    return asked


def test_a_function_plays_with_its_settings_and_may_return_a_completion(environment):
    assert play(environment("short")) == [8]
    assert play(environment("short", share=0.25)) == [4]
    assert play(environment("Whole")) == [3]


def test_a_game_is_played_in_turns(environment):
    game = environment("Game")
    assert isinstance(game.made(), TurnEnvironment)
    made = replace(game, max_turns=3, role="user", step_timeout_seconds=5.0).made()
    assert (made.max_turns, made.role, made.step_timeout_seconds) == (3, "user", 5.0)


def test_settings_of_games_are_not_lost_on_what_is_none(environment):
    assert replace(environment("Limited"), max_turns=3).made().max_turns == 3
    assert environment("Limited").made().max_turns == 5
    for name in ("Whole", "short"):
        with pytest.raises(ValueError, match=r"must name a game, .* environment\.max_turns"):
            replace(environment(name), max_turns=3)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("needs", {}, "cannot be called .*other.*it may take generate, prompt, max_tokens"),
        ("short", {"shrae": 1}, "cannot be called .*shrae"),
        ("plain", {}, "must name an async function"),
        ("Neither", {}, "must name a class with the method play, or reset and step"),
        ("missing", {}, "must name a function or class that is there"),
    ],
)
def test_what_cannot_play_is_refused(environment, name, settings, told):
    with pytest.raises(ValueError, match=rf"^environment\.path .*{told}"):
        environment(name, **settings)


def test_a_play_without_a_result_is_named(environment):
    with pytest.raises(TypeError, match=r"must return a Trajectory or a Completion, got None"):
        play(environment("wrong"))
