"""What an environment raises costs its play: told with its place, and what it took is counted."""

import asyncio

import numpy as np
import pytest

from cost.types import PlayEnd
from rollout.environments import SingleTurn, checked_play
from rollout.environments.guarded import play_guarded
from rollout.types import Completion, Prompt, VersionSpan

PROMPT = Prompt(0, np.array([2, 7, 8], np.int32), "5", "chain", "a3")


class EngineError(Exception):
    pass


class Service:
    """Asks the policy twice, telling it something in between, and then something that fails."""

    async def play(self, generate, prompt, max_tokens):
        first = await generate(prompt.token_ids, max_tokens)
        told = np.array([90, 91], np.int32)
        await generate(np.concatenate([prompt.token_ids, first.token_ids, told]), max_tokens)
        raise ConnectionError("no route")


class Swallowing:
    async def play(self, generate, prompt, max_tokens):
        try:
            return await generate(prompt.token_ids, max_tokens)
        except EngineError as error:
            raise ValueError("no answer") from error


class Restarting:
    """Asks about something else in between, as one that summarises does."""

    async def play(self, generate, prompt, max_tokens):
        await generate(prompt.token_ids, max_tokens)
        await generate(np.array([5], np.int32), max_tokens)
        raise KeyError("summary")


async def generate(token_ids, max_tokens):
    return Completion(
        np.array([4, 1], np.int32), np.array([-0.5, -0.25], np.float32), "stop",
        (VersionSpan(0, 2, 3),), cached_tokens=len(token_ids) - 1,
    )  # fmt: skip


def played(environment, generate=generate):
    return checked_play(asyncio.run(play_guarded(environment, generate, PROMPT, 16)))


def test_a_play_that_raises_has_failed_with_all_that_was_generated():
    found = played(Service())
    assert found.end == PlayEnd.FAILURE
    assert found.failure.startswith("environment: Service raised ConnectionError: no route (")
    assert f"{__file__}:" in found.failure
    assert found.token_ids.tolist() == [4, 1, 90, 91, 4, 1]
    assert found.loss_mask.tolist() == [True, True, False, False, True, True]
    assert found.prefill_tokens == 2 and len(found.turns) == 2
    assert found.version_spans == (VersionSpan(0, 2, 3), VersionSpan(4, 6, 3))


def test_one_that_asks_about_something_else_has_its_tokens_counted():
    found = played(Restarting())
    assert found.loss_mask.sum() == 4 and len(found.turns) == 2


def test_a_play_that_ends_is_as_it_was_played():
    found, bare = played(SingleTurn()), asyncio.run(SingleTurn().play(generate, PROMPT, 16))
    assert repr(found) == repr(bare)


@pytest.mark.parametrize("environment", [SingleTurn(), Swallowing()])
def test_a_failure_of_the_engine_is_none_of_the_environment(environment):
    async def dead(token_ids, max_tokens):
        raise EngineError("its engine died")

    with pytest.raises(EngineError, match="its engine died"):
        played(environment, dead)


def test_what_an_engine_refuses_is_a_fault_of_the_environment():
    async def refusing(token_ids, max_tokens):
        if len(token_ids) > 5:
            raise ValueError("the prompt is too long")
        return await generate(token_ids, max_tokens)

    found = played(Service(), refusing)
    assert found.failure.startswith(
        "environment: Service raised ValueError: the prompt is too long"
    )
    assert found.token_ids.tolist() == [4, 1]


def test_who_is_cancelled_has_not_failed():
    class Waiting:
        async def play(self, generate, prompt, max_tokens):
            await asyncio.sleep(60)

    async def cancelled():
        task = asyncio.ensure_future(play_guarded(Waiting(), generate, PROMPT, 16))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
