"""Asynchronous rewards score as others do, in a reward process of their own."""

import asyncio

import pytest

from cost.types import RewardStatus
from rollout.rewards.awaited import finished
from rollout.rewards.by_set import RewardBySet
from rollout.rewards.function import FunctionReward
from rollout.rewards.pool import RewardPool
from rollout.rewards.types import Score

FILE = """
import asyncio

LOOPS = set()

async def scores(response_text, answer):
    LOOPS.add(asyncio.get_running_loop())
    await asyncio.sleep(1000 if response_text == "late" else 0)
    if response_text == "wrong":
        await fails()
    if response_text == "exit":
        raise SystemExit(3)
    if response_text == "nothing":
        return None
    return {"score": float(response_text.endswith(answer)), "loops": len(LOOPS)}

async def fails():
    await asyncio.sleep(0)
    raise KeyError("no such thing")

async def of_lists(completions, answer, **others):
    found = await asyncio.gather(*map(scores, completions, answer))
    return [one["score"] for one in found]

class Judge:
    async def score(self, prompt_text, response_text, answer):
        return await scores(response_text, answer)
"""


@pytest.fixture
def reward(tmp_path):
    """A reward of the file above, by name."""
    file = tmp_path / "asynchronous.py"
    file.write_text(FILE)
    return lambda name: FunctionReward(f"{file}:{name}")


def scored(reward, *responses, seconds=20.0):
    async def main():
        pool = RewardPool(reward, timeout_seconds=seconds)
        try:
            return await pool.score([("2+3", response, "5") for response in responses])
        finally:
            pool.close()

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["scores", "Judge"])
@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: RewardBySet(one, {})])
def test_what_a_coroutine_returns_is_the_score(reward, name, wrapped):
    found = scored(wrapped(reward(name)), "it is 5", "it is 6", "it is 5")
    # One event loop for all of them, so that what is kept open in it stays.
    assert [one.score for one in found] == [
        Score(reward, {"loops": 1.0}) for reward in (1.0, 0.0, 1.0)
    ]


def test_a_function_of_lists_may_be_asynchronous(reward):
    assert [one.score.reward for one in scored(reward("of_lists"), "is 5", "is 6")] == [1.0, 0.0]


def test_one_that_waits_for_ever_is_killed_and_the_next_is_scored(reward):
    late, good = scored(reward("scores"), "late", "it is 5", seconds=3.0)
    assert (late.status, good.status) == (RewardStatus.TIMED_OUT, RewardStatus.OK)


def test_one_that_raises_has_crashed_and_is_told_with_its_line(reward, capfd):
    found = scored(reward("scores"), "wrong", "exit", "nothing", "it is 5")
    line = FILE.splitlines().index('    raise KeyError("no such thing")') + 1
    assert [one.status for one in found] == [RewardStatus.CRASHED] * 3 + [RewardStatus.OK]
    assert found[0].summary.endswith(f"asynchronous.py:{line}: KeyError: 'no such thing'")
    assert "SystemExit: 3" in found[1].summary
    assert "a reward must return a number" in found[2].summary
    assert "never" not in capfd.readouterr().err


def test_what_is_not_awaitable_stays_and_what_is_raises_here():
    async def broken():
        raise ValueError("broken")

    assert finished(3.0) == 3.0
    with pytest.raises(ValueError, match=r"^broken$"):
        finished(broken())
